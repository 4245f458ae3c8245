"""Addresses as proxies write them: each is read in one spelling, or ends the list."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.proxy.request.client_address import client_address, peer_address, read_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9\t", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("203.0.113.9:", "203.0.113.9"),
        ("[2001:db8::5]", "2001:db8::5"),
        ('"[2001:DB8:0::5]:443"', "2001:db8::5"),
        ("2001:db8::5", "2001:db8::5"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%x\ty", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("203.0.113.9:4711:1", None),
        ("203.0.113.9:port", None),
        ("[203.0.113.9", None),
        ("203.0.113.9\x85", None),
        ("\u0661.2.3.4", None),
        ("1" * 10_000, None),
    ],
)
def test_address_has_one_spelling_or_none(written: str, address: str | None) -> None:
    assert read_address(written) == address


@pytest.mark.parametrize(
    ("name", "value", "client"),
    [
        (b"x-forwarded-for", b"evil, 203.0.113.9:1, [fd00::2]:80", "203.0.113.9"),
        (b"x-forwarded-for", b"203.0.113.9, unknown", "10.0.0.1"),
        (b"x-forwarded-for", b"203.0.113.9, fe80::1%x\ty", "fe80::1"),
        (b"x-forwarded-for", b"\xff\xfe", "10.0.0.1"),
        (b"x-forwarded-for", b"1.2.3.4," * 5000 + b"203.0.113.9", "203.0.113.9"),
        (b"forwarded", b"for=203.0.113.9", "203.0.113.9"),
        (b"forwarded", b'proto=https;For="[2001:db8::5]:443";by=x, for=10.1.1.1:80', "2001:db8::5"),
        (b"forwarded", b"for=203.0.113.9, for=unknown", "10.0.0.1"),
        (b"forwarded", b"by=203.0.113.9", "10.0.0.1"),
        (b"forwarded", b"", "10.0.0.1"),
    ],
)
def test_forwarded_address_is_the_last_that_no_trusted_proxy_has(name: bytes, value: bytes, client: str) -> None:
    assert client_address("10.0.0.1", {name: value}, PROXIES) == client


def test_x_forwarded_for_outranks_forwarded() -> None:
    fields = {b"x-forwarded-for": b"203.0.113.9", b"forwarded": b"for=192.0.2.7"}
    assert client_address("10.0.0.1", fields, PROXIES) == "203.0.113.9"


@pytest.mark.parametrize(
    ("host", "peer"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1"), ("", "")],
)
def test_peer_is_an_address_without_its_zone(host: str, peer: str) -> None:
    assert peer_address(host) == peer
