"""The header fields of a request: names as tokens, values without control characters, singletons at most once.

Names with an underscore are dropped, as nginx does: CGI-style upstreams read `X_Gateway_User` as `X-Gateway-User`.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from gateway.listener.refusals import Unacceptable, bad

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # all but HTAB (RFC 9110 section 5.5)

# Fields of one value, of which two would be two readings: what frames, names the caller, or is recorded of the call.
_SINGLETONS = frozenset(
    (
        b"authorization",
        b"content-disposition",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"expect",
        b"from",
        b"host",
        b"idempotency-key",
        b"if-modified-since",
        b"if-range",
        b"if-unmodified-since",
        b"max-forwards",
        b"origin",
        b"proxy-authorization",
        b"range",
        b"referer",
        b"traceparent",
        b"transfer-encoding",
        b"user-agent",
        b"x-api-key",
        b"x-batch-id",
        b"x-category",
        b"x-file-name",
        b"x-language-code",
        b"x-request-id",
    )
)


class _Kind(Enum):
    SINGLE = "single"
    CLOSE = "close"
    DROPPED = "dropped"


class Fields(NamedTuple):
    """`headers` as ASGI has them; singletons again by name; whether Connection says close."""

    headers: list[tuple[bytes, bytes]]
    single: dict[bytes, bytes]
    closes: bool


def parse(head: bytes, start: int, max_fields: int) -> Fields:
    """Reads the field lines of a whole head, which begin at `start`; raises Unacceptable."""
    lines = head[start:-4].split(b"\r\n") if len(head) - start > 2 else []
    if len(lines) > max_fields:
        raise Unacceptable("headers_too_large", f"The request has more than {max_fields} header fields.")
    headers: list[tuple[bytes, bytes]] = []
    single: dict[bytes, bytes] = {}
    closes = False
    for line in lines:
        field, kind = _known.get(line) or _read(line)
        if kind is not None:
            if kind is _SINGLE:
                if field[0] in single:
                    raise bad(f"{field[0].decode().title()} is given twice; send it once.")
                single[field[0]] = field[1]
            elif kind is _DROPPED:
                continue
            else:
                closes = True
        headers.append(field)
    return Fields(headers, single, closes)


_SINGLE, _DROPPED = _Kind.SINGLE, _Kind.DROPPED  # looked up for each field of each request

_Line = tuple[tuple[bytes, bytes], _Kind | None]

# Clients repeat most of their lines in every request, so a line is read once. Short ones, and as many as take a
# megabyte or two; when that is full of lines which do not come back it starts afresh.
_MAX_LINES = 4096
_MAX_LINE_BYTES = 256
_SECRETS = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"x-api-key"))
_known: dict[bytes, _Line] = {}


def _read(line: bytes) -> _Line:
    raw_name, colon, value = line.partition(b":")
    if not _TOKEN.fullmatch(raw_name):
        raise bad("A header field's name is not a token, or its line is folded.")
    if not colon:
        raise bad("A header field has no colon.")
    if _CONTROL.search(value):
        raise bad("A header field's value holds a control character.")
    name, value = raw_name.lower(), value.strip(b" \t")
    read = (name, value), _kind(name, value)
    if len(line) <= _MAX_LINE_BYTES and name not in _SECRETS:
        if len(_known) >= _MAX_LINES:
            _known.clear()
        _known[line] = read
    return read


def _kind(name: bytes, value: bytes) -> _Kind | None:
    if b"_" in name:
        return _Kind.DROPPED
    if name == b"connection":
        return _Kind.CLOSE if b"close" in [token.strip(b" \t") for token in value.lower().split(b",")] else None
    return _Kind.SINGLE if name in _SINGLETONS else None
