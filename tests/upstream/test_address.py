"""A target is a scheme, a host and a port, and nothing that a request could be smuggled into."""

from __future__ import annotations

import pytest

from gateway.upstream.address import Address, parse_target


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://up", Address("http", "up", 80), b"up"),
        ("http://up:80", Address("http", "up", 80), b"up"),
        ("https://up/", Address("https", "up", 443), b"up"),
        ("https://up/api/v1/", Address("https", "up", 443, "/api/v1"), b"up"),
        ("https://up:80", Address("https", "up", 80), b"up:80"),
        ("http://[::1]:9000", Address("http", "::1", 9000), b"[::1]:9000"),
        ("http://127.0.0.1:9000", Address("http", "127.0.0.1", 9000), b"127.0.0.1:9000"),
        ("http://bücher.example", Address("http", "xn--bcher-kva.example", 80), b"xn--bcher-kva.example"),
    ],
)
def test_target_is_scheme_host_and_port(url: str, address: Address, authority: bytes) -> None:
    assert parse_target(url) == address
    assert parse_target(url).authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "up:80",
        "ftp://up",
        "http://",
        "http://up/a/../b",
        "http://up//a",
        "http://up/%61",
        "http://up?q",
        "http://up#f",
        "http://me:pw@up",
        "http://up:99999",
    ],
)
def test_target_of_another_form_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ValueError, match=r"target|[Pp]ort"):
        parse_target(url)
