"""Renders response heads: the listener frames the body, and refuses fields that could inject a line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple

from gateway.http.fields import HOP_BY_HOP, Header, HeaderBlock, is_token
from gateway.http.framing import BODILESS_STATUSES, Framing, is_content_length

_CONTROLS = bytes(range(0x09)) + bytes(range(0x0A, 0x20)) + b"\x7f"

_STATUS_LINES = {status: b"HTTP/1.1 %d " % status for status in range(200, 600)}
_STATUS_LINES |= {each: f"HTTP/1.1 {each} {each.phrase}".encode() for each in HTTPStatus if each >= 200}


class RenderedHead(NamedTuple):
    """A rendered head; `length` is what it promises in bytes where framing is LENGTH."""

    rendered: bytes
    framing: Framing
    length: int
    keeps_alive: bool


class _ResponseFieldKind(Enum):
    LENGTH = "length"
    CONNECTION = "connection"
    DATE = "date"
    DROPPED = "dropped"


_LENGTH_FIELD, _CONNECTION_FIELD = _ResponseFieldKind.LENGTH, _ResponseFieldKind.CONNECTION
_DATE_FIELD = _ResponseFieldKind.DATE
_KINDS = dict.fromkeys(HOP_BY_HOP, _ResponseFieldKind.DROPPED) | {
    b"content-length": _ResponseFieldKind.LENGTH,
    b"connection": _ResponseFieldKind.CONNECTION,
    b"date": _ResponseFieldKind.DATE,
}


def render(
    status: int, headers: Iterable[Header], *, method: str, is_http_1_0: bool, keeps_alive: bool
) -> RenderedHead:
    """Renders the head of a final response; RuntimeError for a defect of the application."""
    if status not in _STATUS_LINES:
        raise RuntimeError(f"{status} is not the status of a final response")
    lines = [_STATUS_LINES[status]]
    length: bytes | None = None
    has_date = False
    for name, value in headers:
        line_start, kind = _line_starts.get(name) or _line_start(name)
        if kind is not None:
            if kind is _LENGTH_FIELD:
                length = _single_length(length, value)
                if status == 204:
                    continue
            elif kind is _DATE_FIELD:
                has_date = True
            else:
                keeps_alive = keeps_alive and not (kind is _CONNECTION_FIELD and b"close" in value.lower())
                continue
        lines.append(line_start + value)
    if not has_date:
        lines.append(date_line())
    framing = _framing(status, method, length, is_http_1_0=is_http_1_0)
    keeps_alive = keeps_alive and framing is not Framing.UNTIL_CLOSE
    head = _joined(lines)
    ending = _ENDINGS[framing is Framing.CHUNKED, keeps_alive]
    return RenderedHead(head + ending, framing, int(length or 0) if framing is Framing.LENGTH else 0, keeps_alive)


def render_whole(status: int, fields: HeaderBlock, length: int | None, *, keeps_alive: bool) -> bytes:
    """Renders the head of a response whose body has `length` bytes, or does not exist (None)."""
    if status not in _STATUS_LINES:
        raise RuntimeError(f"{status} is not the status of a final response")
    date = b"" if fields.find(b"\ndate:") >= 0 or fields.startswith(b"date:") else date_line() + b"\r\n"
    framing = b"" if length is None else b"content-length: %d\r\n" % length
    closing = b"" if keeps_alive else b"connection: close\r\n"
    return b"%b\r\n%b%b%b%b\r\n" % (_STATUS_LINES[status], fields, date, framing, closing)


def render_switch(protocol: bytes, headers: Iterable[Header]) -> bytes:
    """Renders a 101 (RFC 9110 section 15.2.2): it has no body, and what follows it is no HTTP."""
    lines = [b"HTTP/1.1 101 Switching Protocols"]
    for name, value in headers:
        line_start, kind = _line_starts.get(name) or _line_start(name)
        if kind is None or kind is _DATE_FIELD:
            lines.append(line_start + value)
    lines += (b"connection: Upgrade", b"upgrade: " + protocol)
    return _joined(lines) + b"\r\n\r\n"


def _joined(lines: list[bytes]) -> bytes:
    head = b"\r\n".join(lines)
    # Rendering adds two control characters a line; any other came with a value.
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * (len(lines) - 1):
        raise RuntimeError("a response header holds a control character")
    return head


_ENDINGS = {
    (False, True): b"\r\n\r\n",
    (False, False): b"\r\nconnection: close\r\n\r\n",
    (True, True): b"\r\ntransfer-encoding: chunked\r\n\r\n",
    (True, False): b"\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
}


def _framing(status: int, method: str, length: bytes | None, *, is_http_1_0: bool) -> Framing:
    if method == "HEAD" or status in BODILESS_STATUSES:
        return Framing.NONE
    if length is not None:
        return Framing.LENGTH
    return Framing.UNTIL_CLOSE if is_http_1_0 else Framing.CHUNKED


def _single_length(before: bytes | None, value: bytes) -> bytes:
    if before is not None or not is_content_length(value):
        raise RuntimeError("a response has one Content-Length, in digits")
    return value


# Applications send few different names. The bound is for those that do not.
_MAX_NAMES = 4096
_line_starts: dict[bytes, tuple[bytes, _ResponseFieldKind | None]] = {}


def _line_start(name: bytes) -> tuple[bytes, _ResponseFieldKind | None]:
    if not is_token(name):
        raise RuntimeError(f"{name!r} is not a field name")
    lowered = name.lower()
    found = (lowered + b": ", _KINDS.get(lowered))
    if len(_line_starts) < _MAX_NAMES:
        _line_starts[name] = found
    return found


def date_line() -> bytes:
    """`Date` as a rendered line (RFC 9110 section 6.6.1), made once a second."""
    global _second, _date_line
    second = int(time.time())
    if second != _second:
        _second, _date_line = second, b"date: %b" % formatdate(second, usegmt=True).encode()
    return _date_line


_second = 0
_date_line = b""
