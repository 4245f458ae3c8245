"""Server-sent events (WHATWG HTML, section 9.2) whose data are JSON texts."""

from __future__ import annotations

import re

from gateway.proxy.metering.documents.grammar import BYTE_ORDER_MARK
from gateway.proxy.metering.documents.reader import DocumentReader

END_OF_LINE = re.compile(rb"\r\n?|\n")
_MAX_NAME_BYTES = 64  # of an event; readers know shorter ones
_FIELD_BYTES = len(b"event:")  # how much of a line tells the fields that are read


class EventStream:
    """Gives the data of each event as a text, however long its lines are."""

    is_stream = True
    is_readable_open = True
    is_broken = False

    def __init__(self, documents: DocumentReader) -> None:
        self.event_name = b""
        self._documents = documents
        self._is_between_events = True
        self._is_first_line = True
        self._is_after_return = False  # a line feed that comes now belongs to the line end before
        self._head: bytes | None = b""  # of the open line; None once its field is known
        self._field = b""
        self._has_data = False

    def feed(self, chunk: bytes) -> None:
        if self._is_between_events and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            self._read_events(chunk, b"\n\n")
        elif self._is_between_events and not self._is_after_return and chunk.endswith(b"\r\n\r\n"):
            self._read_events(chunk, b"\r\n\r\n")
        elif b"\r" in chunk or self._is_after_return:
            self._read_lines(chunk)
        elif chunk:
            self._read_parts(chunk)

    def _read_parts(self, chunk: bytes) -> None:
        """Reads the rest of the open event, whole events at once, and the beginning of the next."""
        start = 0
        if not self._is_between_events:
            found = chunk.find(b"\n\n")
            start = found + 2 if found >= 0 else len(chunk)
            self._read_lines(chunk[:start])
        end = chunk.rfind(b"\n\n", start) + 2
        if self._is_between_events and end > start + 1:
            self._read_events(chunk[start:end], b"\n\n")
            start = end
        self._read_lines(chunk[start:])

    def _read_events(self, chunk: bytes, end: bytes) -> None:
        """Reads whole events of the usual forms at once: `data: ...` alone or after `event: ...`."""
        for event in chunk[: -len(end)].split(end):
            name, data = b"", event
            if event.startswith(b"event:"):
                line, _, data = event.partition(b"\n")
                name = line[6:].strip()
            if not data.startswith(b"data:") or b"\n" in data or b"\r" in data:
                self._read_lines(event + end)
                continue
            self._is_first_line = False
            self.event_name = name
            self._documents.read(data[5:])
            self.event_name = b""

    def _read_lines(self, chunk: bytes) -> None:
        position = 1 if self._is_after_return and chunk.startswith(b"\n") else 0
        self._is_after_return = chunk.endswith(b"\r")
        for end in END_OF_LINE.finditer(chunk, position):
            self._read_part(chunk[position : end.start()])
            self._end_line()
            position = end.end()
        if position < len(chunk):
            self._is_between_events = False
            self._read_part(chunk[position:])

    def _read_part(self, part: bytes) -> None:
        if self._head is not None:
            self._head += part
            if self._is_first_line:
                self._head = self._head.removeprefix(BYTE_ORDER_MARK)
            if len(self._head) >= _FIELD_BYTES:
                self._begin_line(self._head)
        elif self._field == b"data":
            self._documents.write(part)
        elif self._field == b"event":
            self.event_name = (self.event_name + part)[:_MAX_NAME_BYTES]

    def _begin_line(self, head: bytes) -> None:
        self._field, _, value = head.partition(b":")
        self._head = None
        self._is_first_line = False
        if self._field == b"data":
            if self._has_data:
                self._documents.write(b"\n")
            self._has_data = True
            self._documents.write(value)
        elif self._field == b"event":
            self.event_name = value[:_MAX_NAME_BYTES]

    def _end_line(self) -> None:
        if self._head == b"":
            self._end_event()
        else:
            if self._head is not None:
                self._begin_line(self._head)
            self.event_name = self.event_name.strip() if self._field == b"event" else self.event_name
            self._is_between_events = False
        self._head = b""
        self._is_first_line = False

    def _end_event(self) -> None:
        if self._has_data:
            self._documents.close()
        self.event_name = b""
        self._has_data = False
        self._is_between_events = True
