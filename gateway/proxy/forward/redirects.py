"""Where a response sends the client: a URL of the upstream itself becomes a path of the gateway.

Clients cannot reach the upstream, and its address is none of their business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.http.fields import Header
from gateway.upstream.address import parse_target

FIELDS = frozenset((b"location", b"content-location"))
# Scheme, authority and the rest of an absolute URL or of a network path (RFC 3986 section 4.2).
_URL = re.compile(rb"(?:(https?):)?//([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_PORTS = {b"http": b":80", b"https": b":443"}


class Origins(NamedTuple):
    """The authorities that an upstream may call itself by, and the base paths of its targets, the longest first."""

    authorities: frozenset[bytes] = frozenset()
    base_paths: tuple[bytes, ...] = ()

    def public(self, headers: Sequence[Header], strip_prefix: str) -> list[Header]:
        """The fields, with what leads to the upstream leading to a route that strips this prefix."""
        prefix = strip_prefix.encode()
        return [(name, self._public(value, prefix) if name in FIELDS else value) for name, value in headers]

    def _public(self, value: bytes, prefix: bytes) -> bytes:
        found = _URL.fullmatch(value)
        if found is None:
            return self._public_path(value, prefix) if value.startswith(b"/") else value
        scheme, authority, rest = found.groups()
        if _plain(authority, scheme) not in self.authorities:
            return value
        path = rest if rest.startswith(b"/") else b"/" + rest
        # A path that begins with two slashes would name another host.
        return self._public_path(b"/" + path.lstrip(b"/"), prefix)

    def _public_path(self, path: bytes, prefix: bytes) -> bytes:
        for base_path in self.base_paths:
            if path.startswith(base_path) and path[len(base_path) :][:1] in (b"/", b"?", b"#", b""):
                return prefix + (path[len(base_path) :] or b"/")
        return path


def origins(targets: Iterable[str], host: str | None = None) -> Origins:
    """The origins of an upstream with these targets, which is told this Host if it is not its own."""
    addresses = [parse_target(target) for target in targets]
    authorities = {_plain(each.authority, each.scheme.encode()) for each in addresses}
    if host is not None:
        authorities.add(_plain(host.encode("latin-1"), None))
    base_paths = {each.base_path.encode() for each in addresses}
    return Origins(frozenset(authorities), tuple(sorted(base_paths, key=len, reverse=True)))


def _plain(authority: bytes, scheme: bytes | None) -> bytes:
    """An authority in lower case, without the port of its scheme."""
    authority = authority.rpartition(b"@")[2].lower()
    ports = _PORTS.values() if scheme is None else (_PORTS[scheme.lower()],)
    for port in ports:
        authority = authority.removesuffix(port)
    return authority
