"""gateway.yaml and the upstream client parse targets alike."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import quantities
from gateway.upstream.address import parse_target

_HOSTS = (
    "a A.example. my_service.default.svc bücher.example ß a..b .a -a a- [::1] [::g] [fe80::1%25eth0] [::1]x ::1 "
    "127.0.0.1 300.0.0.1 1.2.3 a%20b a\\b a,b \u2100 \u0661"
)
_PARTS = (
    ["http://", "https://", "HTTP://", "ftp://", "//", "://"],
    ["", "me@", "me:pw@", ":@"],
    [*_HOSTS.split(), "", "a b", "a\tb", "x" * 63, "x" * 64, "x." * 126 + "ab", "x." * 127 + "ab"],
    ["", ":", ":80", ":443", ":9000", ":0", ":00080", ":65535", ":65536", ":x", ":-1", ":\u0661", ":8 0", ":123456"],
    ["", "/", "//", "/path", "?", "?q", "#", "#f", "/?q", " ", "\n"],
)


@given(st.one_of(st.builds(lambda *parts: "".join(parts), *map(st.sampled_from, _PARTS)), st.text(max_size=20)))
@example("http://a:80")
@example("https://a:80/")
@example("http://[::1]:9000")
def test_target_parsers_of_config_and_upstream_agree(url: str) -> None:
    try:
        written = quantities.http_origin(url)
    except ValueError:
        with pytest.raises(ValueError, match="target"):
            parse_target(url)
    else:
        assert str(parse_target(url)) == written
        assert parse_target(written) == parse_target(url)


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("http://bücher.example", "http://xn--bcher-kva.example"),
        ("HTTP://Up:80/", "http://up"),
        ("https://up:80", "https://up:80"),
        ("https://[0:0::1]:9", "https://[::1]:9"),
    ],
)
def test_target_has_one_spelling(written: str, spelt: str) -> None:
    assert quantities.http_origin(written) == spelt
