"""Asking OpenAI for the usage of a stream: `stream_options.include_usage`, merged into the text of a request.

The body is edited where the option stands or is missing, so that everything else stays as the client wrote it.
"""

from __future__ import annotations

from gateway.proxy.metering.documents.grammar import ESCAPED_NAME, InvalidJsonError
from gateway.proxy.metering.documents.scanner import JsonScanner
from gateway.proxy.metering.documents.selection import Fields, select

_NAME, _OPTION = "stream_options", "stream_options/include_usage"
_SPANS = select(spans=(_NAME, _OPTION))
_SETTING = b'"include_usage":true'


def ask_for_usage(body: bytes) -> bytes | None:
    """The body with the option set; None if it is set already, or the body cannot carry it.

    A client that sets it to false is asked for all the same: its usage is charged, and taken out of what it gets.
    """
    if _NAME.encode() not in body and ESCAPED_NAME.search(body) is None:
        return _with_options(body)
    try:
        spans = _spans(body)
    except InvalidJsonError:
        return None
    if _OPTION in spans:
        start, end = spans[_OPTION]
        return None if body[start:end] == b"true" else body[:start] + b"true" + body[end:]
    if _NAME not in spans:
        return _with_options(body)
    start, end = spans[_NAME]
    if body[start:end] == b"null":
        return body[:start] + b"{" + _SETTING + b"}" + body[end:]
    return _with_member(body, start, _SETTING) if body[start : start + 1] == b"{" else None


def _spans(body: bytes) -> Fields:
    spans: Fields = {}
    scanner = JsonScanner(_SPANS, lambda fields, _: spans.update(fields))
    scanner.feed(body)
    scanner.close()
    return spans


def _with_options(body: bytes) -> bytes | None:
    start = body.find(b"{")
    return (
        None
        if start < 0 or body[:start].strip()
        else _with_member(body, start, b'"stream_options":{' + _SETTING + b"}")
    )


def _with_member(body: bytes, start: int, member: bytes) -> bytes:
    """The body with a first member in the object that begins at `start`."""
    inside = start + 1
    is_empty = body[inside : inside + 64].lstrip()[:1] == b"}"
    return body[:inside] + member + (b"" if is_empty else b",") + body[inside:]
