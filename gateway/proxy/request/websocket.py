"""The opening handshake of a WebSocket, as far as a gateway takes part (RFC 6455 section 4.2); it reads no frames.

Only a route with `websocket` switches protocols, and only for a request that keeps to the RFC. Any other request with
an `Upgrade` field is plain HTTP, which RFC 9110 section 7.8 allows.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha1

from gateway.http.fields import list_members
from gateway.proxy.request.inbound import Inbound
from gateway.upstream.errors import invalid
from policies.model import Refusal, Refused, Route

PROTOCOL = b"websocket"
VERSION = b"13"
KEY_BYTES = 16
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def is_upgrade(route: Route, inbound: Inbound) -> bool:
    """Whether a request asks to switch to WebSocket on a route that allows it."""
    fields = inbound.fields
    return (
        route.websocket
        and b"upgrade" in fields
        and inbound.method == "GET"
        and inbound.http_version == "1.1"
        and PROTOCOL in list_members(fields[b"upgrade"])
        and b"upgrade" in list_members(fields.get(b"connection", b""))
    )


def check_handshake(route: Route, inbound: Inbound) -> None:
    """Raises Refused for a request to switch that is not a valid handshake."""
    if not is_upgrade(route, inbound):
        return
    fields = inbound.fields
    if fields.get(b"sec-websocket-version") != VERSION:
        raise Refused(
            Refusal.BAD_REQUEST,
            "Only version 13 of WebSocket is supported; send 'Sec-WebSocket-Version: 13'.",
            sec_websocket_version=VERSION.decode(),
        )
    if not _is_key(fields.get(b"sec-websocket-key", b"")):
        raise Refused(
            Refusal.BAD_REQUEST, f"Sec-WebSocket-Key must be given once, {KEY_BYTES} random bytes written in base64."
        )
    if inbound.content_length != 0:
        raise Refused(Refusal.BAD_REQUEST, "A WebSocket handshake has no body.")


def check_response(inbound: Inbound, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises UpstreamError unless the upstream's 101 accepts the handshake of this request."""
    accepts = [value for name, value in headers if name == b"sec-websocket-accept"]
    if accepts != [accept_of(inbound.fields[b"sec-websocket-key"])]:
        raise invalid("the upstream switched protocols with a wrong Sec-WebSocket-Accept")


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def _is_key(value: bytes) -> bool:
    try:
        return len(b64decode(value, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False
