"""Bodies whose content type does not tell what they are: there is none, or it says plain text or mere bytes."""

from __future__ import annotations

import re

from gateway.proxy.metering.documents.grammar import BYTE_ORDER_MARK
from gateway.proxy.metering.documents.reader import DocumentReader
from gateway.proxy.metering.framing.event_stream import EventStream
from gateway.proxy.metering.framing.json_texts import JsonBody

UNTOLD = frozenset({b"", b"text/plain", b"application/octet-stream"})

_JSON = (b"{", b"[")
_EVENTS = (b"data:", b"event:", b"id:", b"retry:", b": ")
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # mimesniff.spec.whatwg.org, section 3


class UntoldBody:
    """Reads as JSON what begins as JSON, and as events what begins as an event. What is neither is broken."""

    is_readable_open = True

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents
        self._framing: EventStream | JsonBody | None = None
        self._beginning = b""  # what has come where the framing is not known
        self._is_neither = False
        self._is_text = True
        self._size = 0

    @property
    def is_stream(self) -> bool:
        return self._framing is not None and self._framing.is_stream

    @property
    def is_broken(self) -> bool:
        return bool(self._beginning) if self._framing is None else self._framing.is_broken

    @property
    def event_name(self) -> bytes:
        return b"" if self._framing is None else self._framing.event_name

    @property
    def plain_bytes(self) -> int:
        """How much text the body is if no more can be read of it."""
        return self._size if self._is_text else 0

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._is_text = self._is_text and _BINARY.search(chunk) is None
        if self._framing is not None:
            self._framing.feed(chunk)
        elif not self._is_neither:
            self._begin(self._beginning + chunk)

    def _begin(self, data: bytes) -> None:
        start = data.removeprefix(BYTE_ORDER_MARK).lstrip()
        if start.startswith(_JSON):
            self._framing = JsonBody(self._documents)
        elif start.startswith(_EVENTS):
            self._framing = EventStream(self._documents)
        if self._framing is not None:
            self._beginning = b""
            self._framing.feed(start)
            return
        self._beginning = data if BYTE_ORDER_MARK.startswith(data) else start
        self._is_neither = not any(name.startswith(self._beginning) for name in (*_EVENTS, BYTE_ORDER_MARK))
