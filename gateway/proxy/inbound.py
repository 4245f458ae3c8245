"""What a client sent, read in one pass: the fields the gateway acts on, and the block that goes on to the upstream.

Fields are dropped, rewritten or passed by one table. What a client says about itself in `X-Gateway-*` or in
`X-Forwarded-*` is never passed, in any spelling; hop-by-hop fields (RFC 9110 §7.6.1) and framing never cross over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from random import getrandbits
from typing import Any, NamedTuple

from gateway.request_ids import is_echoable
from policies.model import Refusal, Refused

Network = IPv4Network | IPv6Network

# Read by the gateway; whether they also go on is decided where they are used.
_READ = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-disposition",
        b"connection",
        b"expect",
        b"host",
        b"idempotency-key",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"traceparent",
        b"tracestate",
        b"via",
        b"x-language-code",
        b"x-category",
        b"x-batch-id",
        b"x-file-name",
        b"upgrade",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)
_NOT_FORWARDED = frozenset(
    {
        b"x-api-key",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"expect",
        b"host",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-server",
        b"x-real-ip",
        b"forwarded",
        b"traceparent",
        b"tracestate",
        b"via",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
_RESERVED_PREFIXES = (b"x-gateway-", b"x-forwarded-")
_BEARER = b"bearer "
# W3C Trace Context section 3.2: version 00, a trace and a parent that are not all zeros, flags.
_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


class Inbound(NamedTuple):
    """One request as the gateway reads it.

    `fields` holds what the gateway acts on, by lower-cased name; `passed` is the rendered block of end-to-end fields.
    """

    method: str
    raw_path: bytes
    query: bytes
    scheme: str
    peer: str
    client_ip: str
    is_from_trusted_proxy: bool
    fields: dict[bytes, bytes]
    passed: bytes
    http_version: str

    @property
    def target(self) -> bytes:
        return self.raw_path + b"?" + self.query if self.query else self.raw_path

    @property
    def client_request_id(self) -> str | None:
        value = self.fields.get(b"x-request-id")
        return value.decode() if value is not None and is_echoable(value) else None

    @property
    def content_length(self) -> int | None:
        """Bytes of the body as announced; None for a chunked one."""
        if b"transfer-encoding" in self.fields:
            return None
        return int(self.fields.get(b"content-length", b"0"))

    def api_key(self) -> bytes:
        """The key as sent; raises Refused if there is none, or two that differ."""
        authorization = self.fields.get(b"authorization", b"")
        bearer = authorization[len(_BEARER) :].strip() if authorization[:7].lower() == _BEARER else None
        direct = self.fields.get(b"x-api-key")
        if direct is not None and bearer is not None and direct != bearer:
            raise Refused(Refusal.BAD_REQUEST, "Authorization and X-API-Key carry different keys; send one.")
        key = direct if direct is not None else bearer
        if not key:
            raise Refused(
                Refusal.MISSING_KEY, "Send your API key as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'."
            )
        return key

    def text(self, name: bytes, max_length: int = 200) -> str | None:
        """A field that goes into a record, shortened."""
        value = self.fields.get(name)
        return None if value is None else value.decode("utf-8", "replace")[:max_length]


def read(scope: Any, trusted_proxies: Sequence[Network] = ()) -> Inbound:
    """Reads an ASGI HTTP scope."""
    fields: dict[bytes, bytes] = {}
    passed: list[bytes] = []
    named = _named_in_connection(scope["headers"])
    for name, value in scope["headers"]:
        if name in _READ:
            fields[name] = fields[name] + b", " + value if name in fields else value
        if name not in _NOT_FORWARDED and name not in named and not _is_reserved(name):
            if name == b"authorization" and value[:7].lower() == _BEARER:
                continue
            passed += (name, b": ", value, b"\r\n")
    # A listener for both families sees IPv4 clients as ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2).
    peer = scope["client"][0].removeprefix("::ffff:") if scope["client"] else ""
    trusted = bool(trusted_proxies) and _is_in(peer, trusted_proxies)
    return Inbound(
        method=scope["method"],
        raw_path=scope["raw_path"],
        query=scope["query_string"],
        scheme=scope["scheme"],
        peer=peer,
        client_ip=_client_ip(peer, fields, trusted_proxies) if trusted else peer,
        is_from_trusted_proxy=trusted,
        fields=fields,
        passed=b"".join(passed),
        http_version=scope["http_version"],
    )


def forwarded_block(inbound: Inbound, request_id: str) -> bytes:
    """The fields that the gateway sets about the request itself: id, way, trace."""
    fields, trusted = inbound.fields, inbound.is_from_trusted_proxy
    forwarded_for = inbound.client_ip.encode()
    if trusted and b"x-forwarded-for" in fields:
        forwarded_for = b"%b, %b" % (fields[b"x-forwarded-for"], inbound.peer.encode())
    proto = fields.get(b"x-forwarded-proto", b"") if trusted else b""
    host = fields.get(b"x-forwarded-host", b"") if trusted else b""
    via = fields[b"via"] + b", 1.1 gateway" if b"via" in fields else b"1.1 gateway"
    return (
        b"x-request-id: %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\nvia: %b\r\n%b"
        % (
            request_id.encode(),
            forwarded_for,
            proto or inbound.scheme.encode(),
            host or fields.get(b"host", b""),
            via,
            _trace(inbound),
        )
    )


def _trace(inbound: Inbound) -> bytes:
    """W3C Trace Context: a trusted proxy's trace goes on under our own parent id, any other starts anew."""
    parent = b"%016x" % (getrandbits(64) or 1)
    given = inbound.fields.get(b"traceparent", b"") if inbound.is_from_trusted_proxy else b""
    found = _TRACEPARENT.fullmatch(given)
    if found is not None:
        state = inbound.fields.get(b"tracestate")
        rest = b"tracestate: %b\r\n" % state if state else b""
        return b"traceparent: 00-%b-%b-%b\r\n%b" % (found[1], parent, found[2], rest)
    return b"traceparent: 00-%032x-%b-01\r\n" % (getrandbits(128) or 1, parent)


def _named_in_connection(headers: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name == b"connection" and value not in (b"keep-alive", b"close", b"Keep-Alive"):
            named |= frozenset(token.strip().lower() for token in value.split(b","))
    return named


def _is_reserved(name: bytes) -> bool:
    """X-Gateway-* and X-Forwarded-*, also spelt with underscores, which CGI-style upstreams read as dashes."""
    return name.replace(b"_", b"-").startswith(_RESERVED_PREFIXES) if name[:1] == b"x" else False


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _client_ip(peer: str, fields: dict[bytes, bytes], trusted: Sequence[Network]) -> str:
    """The rightmost address of X-Forwarded-For that is not a proxy of ours: everything left of it may be invented."""
    hops = [hop.strip() for hop in fields.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
    for hop in reversed(hops):
        try:
            ip_address(hop)
        except ValueError:
            return peer
        if not _is_in(hop, trusted):
            return hop
    return peer
