"""Requests as bytes: a head with framing of our own making around end-to-end fields of the caller's.

One request must never be read as two (RFC 9112 section 11.2), so what could be is refused before a byte is sent.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from dataclasses import dataclass

_GENERATED_FIELDS = (b"\ncontent-length:", b"\ntransfer-encoding:", b"\nconnection:", b"\nupgrade:")
_METHODS_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_METHOD = re.compile(rb"[A-Z]+")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[!-~]+")
# RFC 9110 section 5.1 and 5.5: tokens, and values without control characters. Possessive, so it runs in linear time.
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n)*+")


@dataclass(slots=True)
class Request:
    """One request. `header_block` holds end-to-end fields as `name: value\\r\\n`, never framing ones.

    `content_length` counts for an iterator only: its length in bytes, or None to send it chunked. The iterator is
    pulled once a connection stands, and remains the caller's to close. `upgrade` is the protocol to switch to, a token;
    the answer may then be 101 (RFC 9110 section 7.8).
    """

    method: bytes
    target: bytes
    header_block: bytes = b""
    body: bytes | AsyncIterable[bytes] | None = None
    content_length: int | None = None
    upgrade: bytes | None = None


def render_head(request: Request, host: bytes) -> bytes:
    """The request's head with framing of our own making; `host` is used where the block has none.

    ValueError where method, target or block would let one request be read as another.
    """
    block = request.header_block
    lowered = b"\n" + block.lower()
    if not _METHOD.fullmatch(request.method) or not _TARGET.fullmatch(request.target):
        raise ValueError(f"not a request line: {request.method!r} {request.target!r}")
    if not _FIELDS.fullmatch(block):
        raise ValueError("the header block is not a sequence of `name: value\\r\\n`")
    for name in _GENERATED_FIELDS:
        if name in lowered:
            raise ValueError(f"the header block holds the framing field {name[1:-1].decode()}")
    if b"\nhost:" not in lowered:
        block = b"host: %b\r\n%b" % (host, block)
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (request.method, request.target, block, _framing_of(request))


def _framing_of(request: Request) -> bytes:
    body = request.body
    if request.upgrade is not None:
        if body is not None or not _TOKEN.fullmatch(request.upgrade):
            raise ValueError("a request to switch protocols names one, and has no body")
        return b"connection: Upgrade\r\nupgrade: %b\r\n" % request.upgrade
    if body is None:
        # RFC 9110 section 8.6: a method that anticipates content says that there is none.
        return b"content-length: 0\r\n" if request.method in _METHODS_WITH_BODY else b""
    if isinstance(body, bytes):
        return b"content-length: %d\r\n" % len(body)
    if request.content_length is not None:
        return b"content-length: %d\r\n" % request.content_length
    return b"transfer-encoding: chunked\r\n"
