from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from gateway.config import quantities


@pytest.mark.parametrize(
    ("parse", "written", "value"),
    [
        (quantities.size_bytes, 0, 0),
        (quantities.size_bytes, "512B", 512),
        (quantities.size_bytes, "1KB", 1000),
        (quantities.size_bytes, "32 kib", 32768),
        (quantities.size_bytes, "1.5GiB", 3 * 2**29),
        (quantities.duration_seconds, 0, 0.0),
        (quantities.duration_seconds, Decimal("0.5"), 0.5),
        (quantities.duration_seconds, "100ms", 0.1),
        (quantities.duration_seconds, "10m", 600.0),
        (quantities.duration_seconds, "3d", 259200.0),
        (quantities.decimal_amount, Decimal("0.000000000001"), Decimal("1E-12")),
        (quantities.decimal_amount, "0.0000001", Decimal("1E-7")),
        (quantities.http_origin, "HTTP://LocalHost:81/", "http://localhost:81"),
        (quantities.http_origin, "https://[::1]:8443", "https://[::1]:8443"),
        (quantities.http_url, "https://a.example/paid?x={y}", "https://a.example/paid?x={y}"),
        (quantities.currency_code, "eur", "EUR"),
        (quantities.text, 7, "7"),
    ],
)
def test_quantity_is_read(parse: Callable[[object], object], written: object, value: object) -> None:
    assert parse(written) == value


@pytest.mark.parametrize("written", ["127.0.0.1:8080", "localhost:0", "[::1]:65535", "my_service.default.svc:80"])
def test_address_reads_as_written(written: str) -> None:
    assert str(quantities.listen_address(written)) == written


@pytest.mark.parametrize(
    ("parse", "written"),
    [
        *((quantities.size_bytes, bad) for bad in (-1, 1.5, True, "", "32K", "1.0001KiB", "KiB", "1 KiB 2", None)),
        *((quantities.duration_seconds, bad) for bad in (-1, True, "", "5", "2 weeks", "1h30m", "-5s", float("nan"))),
        *(
            (quantities.listen_address, bad)
            for bad in (
                8080,
                ":8080",
                "::1:80",
                "[::1",
                "host",
                "h:65536",
                "h:-1",
                "h:",
                "300.0.0.1:1",
                "a b:1",
                "[::g]:1",
            )
        ),
        *((quantities.network, bad) for bad in ("10.0.0.1/8", "10.0.0.0/33", "host", 5, "fd00::1/8")),
        *(
            (quantities.http_origin, bad)
            for bad in (
                "a:80",
                "http://",
                "http://a:0",
                "http://a:99999",
                "http://a?b",
                "http://a/../b",
                "http://a//b",
                "http://a b",
                1,
            )
        ),
        *((quantities.text, bad) for bad in (True, 1.5, None, ())),
        *((quantities.decimal_amount, bad) for bad in ("1e3", "NaN", "-1", True, None, "1,5", "", "٣")),
    ],
)
def test_malformed_quantity_is_refused_with_an_example(parse: Callable[[object], object], written: object) -> None:
    with pytest.raises(ValueError, match=r"^(must|has bits)"):
        parse(written)


def test_network_with_host_bits_suggests_the_network() -> None:
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8"):
        quantities.network("10.1.2.3/8")
