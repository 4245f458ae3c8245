"""Adapts a request whose response is measured: it asks for usage, and for content codings that can be read.

Everything else stays as the client wrote it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.http.fields import HeaderBlock
from gateway.proxy.metering.decoding import READABLE
from gateway.proxy.metering.priced_body import Asked
from gateway.proxy.metering.usage_option import ask_for_usage

_ACCEPT_ENCODING = re.compile(rb"(?<![^\n])accept-encoding: ?([^\r]*)\r\n")
_CONTENT_ENCODING = re.compile(rb"(?<![^\n])content-encoding: [^\r]*\r\n")
_READABLE = frozenset(READABLE.split(b", ")) | {b"identity", b"x-gzip"}


def adapt(fields: HeaderBlock, body: bytes, asked: Asked, *, asks_for_usage: bool) -> tuple[HeaderBlock, bytes, bool]:
    """The fields and the body towards the upstream of a measured route, and whether to hide the usage event.

    `asks_for_usage` is whether that upstream can be asked. An event that the gateway asked for is not for the client.
    """
    edited = None
    if asked.needs_usage_option and asks_for_usage:
        edited = ask_for_usage(body if asked.decoded is None else asked.decoded)
    if edited is None:
        return readable_fields(fields), body, False
    plain = _ACCEPT_ENCODING.sub(b"", _CONTENT_ENCODING.sub(b"", fields))
    return HeaderBlock(plain + b"accept-encoding: identity\r\n"), edited, True


def readable_fields(fields: HeaderBlock) -> HeaderBlock:
    """The fields of a request whose response is measured, with the content codings that can be read."""
    is_coded = fields.find(b"accept-encoding: ") >= 0
    return HeaderBlock(_ACCEPT_ENCODING.sub(_cut, fields)) if is_coded else fields


def _cut(field: re.Match[bytes]) -> bytes:
    return b"accept-encoding: %b\r\n" % readable(field[1])


@lru_cache(maxsize=256)
def readable(accepted: bytes) -> bytes:
    """An Accept-Encoding (RFC 9110 section 12.5.3) cut to the codings that can be read; `identity` if none is left."""
    codings = [coding.strip() for coding in accepted.split(b",")]
    kept = [coding for coding in codings if coding.partition(b";")[0].strip().lower() in _READABLE]
    return b", ".join(kept) or b"identity"
