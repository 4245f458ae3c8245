"""The address of a client behind trusted proxies, in the one spelling that records and policies know.

Proxies write addresses in many ways: with ports, in brackets, quoted, with an IPv6 zone, as IPv4 in IPv6, or as
`unknown`. What is no address ends the list: nothing left of it can be believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

_MAX_HOPS = 64  # from the right; a longer list is a client's
_MAX_ADDRESS_LENGTH = 64
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]{0,5})?|([0-9.]+):[0-9]{0,5}", re.ASCII)
# RFC 7239 section 4. Quoted strings with a comma or a semicolon hold no address, so a list is split at each.
_FORWARDED_FOR = re.compile(r"\s*for\s*=(.*)", re.IGNORECASE | re.DOTALL)


def read_address(written: str) -> str | None:
    """An address without port, brackets and zone; None for what is none, such as `unknown`."""
    written = written.strip(' \t"')
    if len(written) > _MAX_ADDRESS_LENGTH:
        return None
    if (found := _WITH_PORT.fullmatch(written)) is not None:
        written = found[1] or found[2] or ""
    try:
        address = ip_address(written.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def peer_address(host: str) -> str:
    """The peer of a socket. A listener for both families sees IPv4 as ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2)."""
    return host if host.replace(".", "").isdigit() else read_address(host) or ""


def is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def client_address(peer: str, fields: Mapping[bytes, bytes], trusted: Sequence[Network]) -> str:
    """The rightmost forwarded address that is not a trusted proxy: everything left of it may be invented."""
    for hop in _hops(fields):
        address = read_address(hop)
        if address is None:
            return peer
        if not is_in(address, trusted):
            return address
    return peer


def _hops(fields: Mapping[bytes, bytes]) -> Iterable[str]:
    """The hops of X-Forwarded-For, else those of Forwarded, the nearest first."""
    written = fields.get(b"x-forwarded-for")
    if written is not None:
        return reversed(written.decode("latin-1").rsplit(",", _MAX_HOPS)[-_MAX_HOPS:])
    elements = fields.get(b"forwarded", b"").decode("latin-1").rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
    return (_forwarded_for(element) for element in reversed(elements))


def _forwarded_for(element: str) -> str:
    return next((found[1] for pair in element.split(";") if (found := _FORWARDED_FOR.fullmatch(pair))), "")
