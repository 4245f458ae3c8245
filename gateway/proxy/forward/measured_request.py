"""Adapts a request whose response is measured: it asks for usage, and for content codings that can be read.

Everything else stays as the client wrote it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from gateway.http.fields import HeaderBlock
from gateway.proxy.metering.decoding import READABLE
from gateway.proxy.metering.priced_body import Asked
from gateway.proxy.metering.usage_option import ask_for_usage

_ACCEPT_ENCODING = re.compile(rb"(?<![^\n])accept-encoding: ?([^\r]*)\r\n")
_CONTENT_ENCODING = re.compile(rb"(?<![^\n])content-encoding: [^\r]*\r\n")
_READABLE = frozenset(READABLE.split(b", ")) | {b"identity", b"x-gzip"}


class MeasuredRequest(NamedTuple):
    """The fields and the body towards the upstream. `hides_usage`: the usage event is not for the client."""

    fields: HeaderBlock
    body: bytes
    hides_usage: bool = False


def adapt(fields: HeaderBlock, body: bytes, asked: Asked, *, asks_for_usage: bool) -> MeasuredRequest:
    """The request to a measured route. `asks_for_usage` is whether its upstream can be asked."""
    edited = None
    if asked.needs_usage_option and asks_for_usage:
        edited = ask_for_usage(body if asked.decoded is None else asked.decoded)
    if edited is None:
        is_coded = fields.find(b"accept-encoding: ") >= 0
        return MeasuredRequest(HeaderBlock(_ACCEPT_ENCODING.sub(_cut, fields)) if is_coded else fields, body)
    plain = _ACCEPT_ENCODING.sub(b"", _CONTENT_ENCODING.sub(b"", fields))
    return MeasuredRequest(HeaderBlock(plain + b"accept-encoding: identity\r\n"), edited, hides_usage=True)


def _cut(field: re.Match[bytes]) -> bytes:
    return b"accept-encoding: %b\r\n" % readable(field[1])


@lru_cache(maxsize=256)
def readable(accepted: bytes) -> bytes:
    """An Accept-Encoding (RFC 9110 section 12.5.3) cut to the codings that can be read; `identity` if none is left."""
    codings = [coding.strip() for coding in accepted.split(b",")]
    kept = [coding for coding in codings if coding.partition(b";")[0].strip().lower() in _READABLE]
    return b", ".join(kept) or b"identity"
