"""Taking the usage event out of a stream whose client did not ask for it: `choices` is empty, `usage` is an object.

Clients index the first choice of every event and fail on one without. Everything else passes byte for byte; only an
event that may still turn out to be this one is held back.
"""

from __future__ import annotations

import re

from gateway.proxy.metering.documents.grammar import BYTE_ORDER_MARK, ESCAPED_NAME
from gateway.proxy.metering.documents.values import parse
from gateway.proxy.metering.framing import media_type
from gateway.proxy.metering.framing.event_stream import END_OF_LINE

MAX_HELD_BYTES = 64 * 1024  # a usage event is smaller

_END_OF_EVENT = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_BEFORE_EVENT = re.compile(
    rb"(?:[\r\n]++|:[^\r\n]*+[\r\n]){0,100}"
)  # blank lines and comments, of which no event is made
_USAGE = re.compile(rb'"usage"[ \t\r\n]*+:[ \t\r\n]*+\{')
_OVERLAP_BYTES = 3  # of an end of an event, at most, in the chunk before


def open_remover(content_type: bytes, content_encoding: bytes) -> UsageEventRemover | None:
    """The remover of a response that reports a usage which its client did not ask for; None where it is no stream."""
    is_readable = content_encoding in (b"", b"identity")
    return UsageEventRemover() if is_readable and media_type(content_type) == b"text/event-stream" else None


class UsageEventRemover:
    """Fed the bytes of a stream, gives the bytes to pass on."""

    def __init__(self) -> None:
        self._held = b""
        self._passed: bytes | None = None  # the last bytes of an event that is too large to be held
        self._drops_line_feed = False  # the second half of the line end of a removed event

    def feed(self, chunk: bytes) -> bytes:
        is_whole = chunk.endswith((b"\n\n", b"\r\n\r\n")) and not self._held and self._passed is None
        if is_whole and not self._drops_line_feed and not _may_report(chunk):
            return chunk
        if self._drops_line_feed and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._drops_line_feed = False
        if self._passed is not None:
            passed, chunk = self._pass(self._passed, chunk)
            return passed + self._filter(chunk)
        return self._filter(self._held + chunk, searched=len(self._held) - _OVERLAP_BYTES)

    def finish(self) -> bytes:
        """What is held back at the end of the stream."""
        held, self._held = self._held, b""
        return b"" if _reports_usage(held) else held

    def _filter(self, data: bytes, *, searched: int = 0) -> bytes:
        """Passes on the whole events of the data, except those that report usage. Up to `searched` no event ends."""
        position = _event_start(data, _plain_end(data))
        kept = [data[:position]]
        while end := _END_OF_EVENT.search(data, max(position, searched)):
            event = data[position : end.end()]
            following = _event_start(data, end.end())
            if _reports_usage(event):
                self._drops_line_feed = event.endswith(b"\r") and end.end() == len(data)
                kept.append(data[end.end() : following])
            else:
                kept.append(data[position:following])
            position = following
        self._held = data[position:]
        if len(self._held) > MAX_HELD_BYTES:
            kept.append(self._held)
            self._passed, self._held = self._held[-_OVERLAP_BYTES:], b""
        return b"".join(kept)

    def _pass(self, passed: bytes, chunk: bytes) -> tuple[bytes, bytes]:
        """The rest of an event that is too large to be held, and what comes after it."""
        data = passed + chunk
        end = _END_OF_EVENT.search(data)
        if end is None:
            self._passed = data[-_OVERLAP_BYTES:]
            return chunk, b""
        self._passed = None
        return data[len(passed) : end.end()], data[end.end() :]


def _plain_end(data: bytes) -> int:
    """Up to where whole events report nothing: many come at once from a fast upstream, and few of them report."""
    suspects = [found.start() for pattern in (_USAGE, ESCAPED_NAME) if (found := pattern.search(data)) is not None]
    end = min(suspects, default=len(data))
    ends = [data.rfind(mark, 0, end) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if data.find(mark, 0, end) >= 0]
    return max(ends, default=0)


def _event_start(data: bytes, position: int) -> int:
    while (before := _BEFORE_EVENT.match(data, position)) and before.end() != position:
        position = before.end()
    return position


def _may_report(data: bytes) -> bool:
    return _USAGE.search(data) is not None or (b"\\" in data and ESCAPED_NAME.search(data) is not None)


def _reports_usage(event: bytes) -> bool:
    if len(event) > MAX_HELD_BYTES or not _may_report(event):
        return False
    try:
        document = parse(_data(event))
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("choices") == [] and isinstance(document.get("usage"), dict)


def _data(event: bytes) -> bytes:
    lines = END_OF_LINE.split(event.removeprefix(BYTE_ORDER_MARK))
    return b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
