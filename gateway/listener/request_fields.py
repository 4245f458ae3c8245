"""Reads the header fields of a request: tokens as names, values without control characters, singletons once.

Fields with anything but letters, digits and dashes in their name are dropped, as nginx does: CGI-style upstreams read
`X_Gateway_User` and `X.Gateway.User` as `X-Gateway-User`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from gateway.http.fields import Header, has_control, is_token, list_members
from gateway.listener.error_response import RequestError, bad_request
from policies.access.keys import KEY_FIELDS

# Two of such a field could be read in two ways: they frame the body, name the caller, or are recorded with the call.
_SINGLETONS = KEY_FIELDS | frozenset(
    (
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
        b"x-batch-id",
        b"x-category",
        b"x-file-name",
        b"x-language-code",
        b"x-request-id",
    )
)


# What proxies and client libraries make for each request; none of them goes on to an upstream as it came. A proxy for
# many clients sends another key with each request, too.
VARYING = frozenset((b"content-length", b"traceparent", b"tracestate", b"x-forwarded-for", b"x-request-id"))

Fields = dict[bytes, bytes]  # by name

_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-"


class _RequestFieldKind(Enum):
    SINGLE = "single"
    CLOSE = "close"
    DROPPED = "dropped"


class RequestFields(NamedTuple):
    """`headers` as ASGI has them; singletons by name; whether Connection says close."""

    headers: list[Header]
    single: dict[bytes, bytes]
    closes: bool


def split(head: bytes, start: int) -> list[bytes]:
    """The field lines of a whole head, which begin at `start`."""
    return head[start:-4].split(b"\r\n") if len(head) - start > 2 else []


def reread_changed_lines(
    lines: Sequence[bytes],
    last_lines: Sequence[bytes],
    last: Sequence[Header],
    varying_fields: Fields,
    key_fields: Fields,
) -> tuple[list[Header], Fields, Fields] | None:
    """The headers, and those of VARYING and of KEY_FIELDS by name, of lines that differ in those only; else None.

    `last` are the headers of the last lines, one of each, and the fields those of them that may vary.
    """
    if len(lines) != len(last_lines):
        return None
    headers, varying_fields, values = list(last), varying_fields.copy(), []
    for place, line in enumerate(lines):
        if line != last_lines[place]:
            name, colon, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            if not colon or name != headers[place][0]:
                return None
            if name in varying_fields:
                varying_fields[name] = value
            elif name in key_fields:
                key_fields = {**key_fields, name: value}
            else:
                return None
            headers[place] = name, value
            values.append(value)
    return None if has_control(b"".join(values)) else (headers, varying_fields, key_fields)


def find_varying(headers: Sequence[Header]) -> tuple[Fields, Fields] | None:
    """The VARYING fields and the KEY_FIELDS, by name; None where one is given twice."""
    found = [field for field in headers if field[0] in VARYING]
    by_name = dict(found)
    if len(by_name) < len(found):
        return None
    return by_name, {name: value for name, value in headers if name in KEY_FIELDS}


def parse(lines: list[bytes], max_fields: int) -> RequestFields:
    """Reads the field lines of a head; raises RequestError."""
    if len(lines) > max_fields and len(lines := _with_one_cookie_field(lines)) > max_fields:
        raise RequestError("headers_too_large", f"The request has more than {max_fields} header fields.")
    headers: list[Header] = []
    single: dict[bytes, bytes] = {}
    closes = False
    for line in lines:
        field, kind = _known_lines.get(line) or _read_line(line)
        if kind is not None:
            if kind is _SINGLE:
                if field[0] in single:
                    raise bad_request(f"{field[0].decode().title()} is given twice; send it once.")
                single[field[0]] = field[1]
            elif kind is _DROPPED:
                continue
            else:
                closes = True
        headers.append(field)
    return RequestFields(headers, single, closes)


def _with_one_cookie_field(lines: list[bytes]) -> list[bytes]:
    """The lines with all cookies in one (RFC 6265 section 5.4): proxies from HTTP/2 may send a field for each."""
    cookies = [line[7:].strip(b" \t") for line in lines if line[:7].lower() == b"cookie:"]
    others = [line for line in lines if line[:7].lower() != b"cookie:"]
    return [*others, b"cookie: " + b"; ".join(cookies)] if cookies else others


_SINGLE, _DROPPED = _RequestFieldKind.SINGLE, _RequestFieldKind.DROPPED  # looked up for each field of each request

_Line = tuple[Header, _RequestFieldKind | None]

# Clients repeat most of their lines in every request, so a line is read once. The cache holds short lines, a megabyte
# or two of them, and is cleared when it is full: then most of them did not come back.
_MAX_LINES = 4096
_MAX_LINE_BYTES = 256
_SECRETS = KEY_FIELDS | {b"cookie", b"proxy-authorization"}
_known_lines: dict[bytes, _Line] = {}


def _read_line(line: bytes) -> _Line:
    raw_name, colon, value = line.partition(b":")
    if not is_token(raw_name):
        raise bad_request("A header field's name is not a token, or its line is folded.")
    if not colon:
        raise bad_request("A header field has no colon.")
    if has_control(value):
        raise bad_request("A header field's value holds a control character.")
    name, value = raw_name.lower(), value.strip(b" \t")
    read = (name, value), _kind(name, value)
    if len(line) <= _MAX_LINE_BYTES and name not in _SECRETS:
        if len(_known_lines) >= _MAX_LINES:
            _known_lines.clear()
        _known_lines[line] = read
    return read


def _kind(name: bytes, value: bytes) -> _RequestFieldKind | None:
    if name.translate(None, _PLAIN):
        return _RequestFieldKind.DROPPED
    if name == b"connection":
        return _RequestFieldKind.CLOSE if b"close" in list_members(value) else None
    return _RequestFieldKind.SINGLE if name in _SINGLETONS else None
