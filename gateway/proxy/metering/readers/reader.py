"""The reader of one API. The usual response, one small JSON document, is kept and parsed only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.http.fields import HeaderBlock
from gateway.proxy.metering.documents.selection import Fields, Selection
from gateway.proxy.metering.documents.values import MAX_PARSED_BYTES, parse, pick
from gateway.proxy.metering.framing import is_json
from gateway.proxy.metering.readers.reading import RequestReading, ResponseReading
from gateway.proxy.metering.readers.response import ResponseFormat, ResponseReader
from policies.usage.counts import MissingReason, UsageClass


class WholeDocument:
    """Reads what a ResponseReader would read of the same bytes, and hands it what is no such document."""

    __slots__ = ("_content_type", "_format", "_pieces", "_reader", "_size")

    def __init__(self, response_format: ResponseFormat, content_type: bytes) -> None:
        self._format = response_format
        self._content_type = content_type
        self._pieces: list[bytes] = []
        self._size = 0
        self._reader: ResponseReader | None = None

    def feed(self, chunk: bytes) -> None:
        if self._reader is not None:
            self._reader.feed(chunk)
            return
        self._pieces.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_PARSED_BYTES:
            self._reader, self._pieces = self._handed_over(), []

    def reading(self) -> ResponseReading:
        """What has been said until now."""
        if self._reader is None:
            text = b"".join(self._pieces)
            try:
                document = parse(text)
            except (ValueError, RecursionError):
                document = None
            if isinstance(document, dict):
                return self._read(document, text)
        return (self._reader or self._handed_over()).reading()

    def _read(self, document: Fields, text: bytes) -> ResponseReading:
        form, fields = self._format, document
        if not form.nested.isdisjoint(document):
            fields = {}
            pick(document, form.selection.without_texts or _NOTHING, fields)
        model, counts, is_error, is_complete = form.state(fields, b"")
        usage = form.normalize(counts or {})
        is_complete = is_complete is not False
        if usage is not None and is_complete and _INPUT in usage.counts and _OUTPUT in usage.counts:
            return ResponseReading(model, usage, None, is_error, is_complete)  # nothing is left to be estimated
        missing = MissingReason.ABSENT if usage is None else None
        return ResponseReading(model, usage, missing, is_error, is_complete, form.text_bytes(text))

    def _handed_over(self) -> ResponseReader:
        reader = ResponseReader(self._format, self._content_type, b"")
        for piece in self._pieces:
            reader.feed(piece)
        return reader


_NOTHING = Selection()
_INPUT, _OUTPUT = UsageClass.INPUT, UsageClass.OUTPUT


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the requests and responses of one API.

    `read_request` takes path, content type and body. It raises Refused with `invalid_body` where the body is not what
    the API takes, or where parsers would disagree about it. `check_parameters` takes query and fields; it raises
    Refused where they ask for a response that does not tell its usage. `counts_in_head` is whether a response that is
    one document tells its tokens in its head too.
    """

    name: str
    read_request: Callable[[str, bytes, bytes], RequestReading]
    response: ResponseFormat
    check_parameters: Callable[[bytes, HeaderBlock], None] = lambda _, __: None
    counts_in_head: bool = False

    def open_response(self, content_type: bytes, content_encoding: bytes) -> ResponseReader | WholeDocument:
        """The reader of one response."""
        if not content_encoding and is_json(content_type):
            return WholeDocument(self.response, content_type)
        return ResponseReader(self.response, content_type, content_encoding)
