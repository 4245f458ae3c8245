"""What the listener answers by itself instead of the application: problem documents on a closing connection."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from gateway.http.problems import problem
from gateway.request_ids import uuid7


class Unacceptable(Exception):  # noqa: N818 - an answer, not an error
    """A request that never reaches the application.

    Carries a code of `gateway/http/problems.py` and a sentence for the client.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def bad(detail: str) -> Unacceptable:
    return Unacceptable("bad_request", detail)


def answer(code: str, detail: str, *, has_body: bool = True) -> bytes:
    """The whole response as bytes; without its body for HEAD."""
    request_id = uuid7()
    found = problem(code, detail, request_id=request_id)
    parts = [f"HTTP/1.1 {found.status} {HTTPStatus(found.status).phrase}\r\n".encode()]
    parts += [b"%b: %b\r\n" % field for field in found.headers]
    parts += (b"x-request-id: ", request_id.encode(), b"\r\n", date_line(), b"\r\nconnection: close\r\n\r\n")
    if has_body:
        parts.append(found.body)
    return b"".join(parts)


def date_line() -> bytes:
    """`Date` as a rendered line (RFC 9110 section 6.6.1), made once a second."""
    global _second, _line
    second = int(time.time())
    if second != _second:
        _second, _line = second, b"date: %b" % formatdate(second, usegmt=True).encode()
    return _line


_second = 0
_line = b""
