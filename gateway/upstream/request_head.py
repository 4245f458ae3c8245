"""Renders request heads: the gateway frames the body, and the caller gives end-to-end fields.

One request must never be read as two (RFC 9112 section 11.2): anything ambiguous is refused before a byte is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Hashable
from dataclasses import dataclass

from gateway.http.fields import NO_FIELDS, HeaderBlock, is_token

_METHODS_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_VISIBLE = bytes(range(0x21, 0x7F))  # what a target consists of


@dataclass(slots=True)
class Request:
    """One request, with a block that was checked by `gateway.http.fields.header_block`.

    `content_length` is for an iterator only: its length in bytes, or None to send it chunked. The iterator is read once
    a connection is established, and the caller closes it. `upgrade` is the protocol to switch to, a token; the response
    may then be 101 (RFC 9110 section 7.8). `is_sent` is set when the head is sent. `account` is who asks, any value.
    `has_host` is whether the block has a Host, None where that is to be found out.
    """

    method: bytes
    target: bytes
    header_block: HeaderBlock = NO_FIELDS
    body: bytes | AsyncIterable[bytes] | None = None
    content_length: int | None = None
    upgrade: bytes | None = None
    is_sent: bool = False
    account: Hashable = None
    has_host: bool | None = None


def has_host(block: bytes) -> bool:
    """Whether a block has a Host."""
    return block.find(b"\nhost:") >= 0 or block.startswith(b"host:")


def render_head(request: Request, host: bytes, base_path: bytes = b"") -> bytes:
    """The head of the request, its target below `base_path`; `host` is used where the block has none.

    ValueError where method or target would let one request be read as another.
    """
    method, target, block = request.method, base_path + request.target, request.header_block
    if not (method.isalpha() and method.isupper() and target) or target.translate(None, _VISIBLE):
        raise ValueError(f"not a request line: {method!r} {target!r}")
    is_bare = request.body is None and request.upgrade is None and method not in _METHODS_WITH_BODY
    framing = b"" if is_bare else _framing_of(request)
    if has_host(block) if request.has_host is None else request.has_host:
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, block, framing)
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b\r\n" % (method, target, host, block, framing)


def _framing_of(request: Request) -> bytes:
    body = request.body
    if request.upgrade is not None:
        if body is not None or not is_token(request.upgrade):
            raise ValueError("a request to switch protocols names a protocol, and has no body")
        return b"connection: Upgrade\r\nupgrade: %b\r\n" % request.upgrade
    if body is None:
        # RFC 9110 section 8.6: a method that anticipates content says that there is none.
        return b"content-length: 0\r\n" if request.method in _METHODS_WITH_BODY else b""
    if isinstance(body, bytes):
        return b"content-length: %d\r\n" % len(body)
    if request.content_length is not None:
        return b"content-length: %d\r\n" % request.content_length
    return b"transfer-encoding: chunked\r\n"
