"""How a body is cut into JSON texts, by its content type."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from gateway.proxy.metering.documents.reader import DocumentReader
from gateway.proxy.metering.framing.event_frames import EventFrames
from gateway.proxy.metering.framing.event_stream import EventStream
from gateway.proxy.metering.framing.json_texts import JsonBody, JsonLines
from gateway.proxy.metering.framing.untold import UNTOLD, UntoldBody

JSON_LINES = frozenset(
    {
        b"application/x-ndjson",
        b"application/ndjson",
        b"application/jsonl",
        b"application/jsonlines",
        b"application/x-jsonlines",
        b"application/json-lines",
    }
)


class Framing(Protocol):
    """Fed the bytes of a body, gives its texts to a DocumentReader.

    `event_name` is that of the text which is being read. A body that is not a stream ends with its text.
    An open text that is not `is_readable_open` may still turn out to be broken.
    """

    @property
    def is_readable_open(self) -> bool: ...

    @property
    def is_stream(self) -> bool: ...

    @property
    def is_broken(self) -> bool: ...

    @property
    def event_name(self) -> bytes: ...

    def feed(self, chunk: bytes) -> None: ...


@lru_cache(maxsize=256)
def media_type(content_type: bytes) -> bytes:
    """The type and subtype of a Content-Type, without its parameters (RFC 9110, section 8.3.1)."""
    return content_type.partition(b";")[0].strip().lower()


@lru_cache(maxsize=256)
def is_json(content_type: bytes) -> bool:
    """Whether a body of this type is one JSON text."""
    kind = media_type(content_type)
    return kind.endswith(b"json") and kind not in JSON_LINES


def open_framing(content_type: bytes, documents: DocumentReader) -> Framing | None:
    """The framing of a content type; None where no reader knows it."""
    kind = media_type(content_type)
    if kind == b"text/event-stream":
        return EventStream(documents)
    if kind in JSON_LINES:
        return JsonLines(documents)
    if kind == b"application/vnd.amazon.eventstream":
        return EventFrames(documents)
    if kind in UNTOLD:
        return UntoldBody(documents)
    return JsonBody(documents) if is_json(content_type) else None
