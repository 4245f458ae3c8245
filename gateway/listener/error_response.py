"""The problem documents that the listener answers with by itself, on a connection that it closes."""

from __future__ import annotations

from http import HTTPStatus

from gateway.http.fields import NO_FIELDS, HeaderBlock
from gateway.http.problems import problem
from gateway.listener.response_head import date_line
from gateway.request_ids import is_echoable, uuid7


class RequestError(Exception):
    """Why a request never reaches the application: a code of the problem types, and a sentence for the client."""

    def __init__(self, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.extras = {} if retry_after is None else {"retry_after": retry_after}


def bad_request(detail: str) -> RequestError:
    return RequestError("bad_request", detail)


def render_error(
    error: RequestError, fields: HeaderBlock = NO_FIELDS, *, has_body: bool = True, sent_id: bytes = b""
) -> bytes:
    """The whole response as bytes, with these fields besides its own; without its body for HEAD.

    `sent_id` is the X-Request-Id that the client has sent, which is echoed as the application would echo it.
    """
    request_id = sent_id.decode() if is_echoable(sent_id) else uuid7()
    document = problem(error.code, error.detail, request_id=request_id, extras=error.extras)
    parts = [f"HTTP/1.1 {document.status} {HTTPStatus(document.status).phrase}\r\n".encode()]
    parts += [b"%b: %b\r\n" % field for field in document.headers]
    parts += (b"x-request-id: ", request_id.encode(), b"\r\n", fields)
    parts += (date_line(), b"\r\nconnection: close\r\n\r\n")
    if has_body:
        parts.append(document.body)
    return b"".join(parts)


HEAD_TIMEOUT = RequestError("request_timeout", "The request head did not arrive in time.")
BODY_TIMEOUT = RequestError("request_timeout", "The request body stopped arriving, or arrives too slowly.")
INTERNAL_ERROR = RequestError("internal_error", "The gateway failed to answer.")
SHUTTING_DOWN = RequestError("shutting_down", "This gateway stops; another one serves.", retry_after=1)
