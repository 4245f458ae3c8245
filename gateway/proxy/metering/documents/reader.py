"""One JSON text after the other, small ones by the C parser, large ones by the scanner; both find the same.

Which of the two reads a text depends on its size alone, never on how it was cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from gateway.proxy.metering.documents import grammar
from gateway.proxy.metering.documents.grammar import InvalidJsonError
from gateway.proxy.metering.documents.scanner import JsonScanner, OnDocument
from gateway.proxy.metering.documents.selection import COUNTED, Fields, Selection
from gateway.proxy.metering.documents.values import MAX_PARSED_BYTES, parse, pick

_BATCH_BYTES = 16 * 1024  # of a large text, scanned together
_MOST_UNCHECKED = 64  # documents of one large text; those that API frames hold are one each


class End(Enum):
    """How a text ends."""

    WHOLE = "whole"
    CUT_OFF = "cut off"
    INVALID = "invalid"  # no JSON


@dataclass(frozen=True, slots=True)
class Glance:
    """What a text is so far: how it ends, how much generated text it has, whether a value was too large to keep."""

    end: End = End.CUT_OFF
    text_bytes: int = 0
    is_oversized: bool = False


class DocumentReader:
    """Hands the selected fields of each text, or of each element of a text that is an array, to `handle`.

    What stood before a fault counts. `is_relevant` says of a raw text whether it is worth parsing, `text_bytes` how
    much generated text it has; `element` gives the selection of an array's element by its index.
    `text_bytes`, `broken` and `is_oversized` are of all texts that have ended. Where `is_checked_at_end`, a text counts
    only once it is closed, and not where it is abandoned.
    """

    def __init__(
        self,
        selection: Selection,
        handle: OnDocument,
        *,
        is_relevant: Callable[[bytes], bool] = lambda _: True,
        text_bytes: Callable[[bytes], int] = lambda _: 0,
        element: Callable[[int], Selection | None] | None = None,
        small_bytes: int = MAX_PARSED_BYTES,
    ) -> None:
        self._selection = selection
        self._looked_up = selection.without_texts or Selection()
        self._handle = handle
        self._is_relevant = is_relevant
        self._text_bytes = text_bytes
        self._element = element or (lambda _: selection)
        self._small_bytes = small_bytes
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0  # in the pieces
        self._size = 0
        self._scanner: JsonScanner | None = None
        self._is_broken = False
        self._unchecked: deque[tuple[Fields, int | None]] = deque(maxlen=_MOST_UNCHECKED)
        self.is_checked_at_end = False
        self.text_bytes = 0
        self.broken = 0
        self.is_oversized = False

    @property
    def size(self) -> int:
        """Of the open text."""
        return self._size

    def read(self, text: bytes) -> None:
        """Reads a whole text at once."""
        if len(text) > self._small_bytes:
            self.write(text)
            self.close()
            return
        self.text_bytes += self._text_bytes(text)
        if self._is_relevant(text):
            self.broken += self._parse(text, self._handle) is not End.WHOLE

    def write(self, piece: bytes) -> None:
        """Takes the next piece of the open text."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._waiting_bytes += len(piece)
        if self._size > self._small_bytes and (self._scanner is None or self._waiting_bytes > _BATCH_BYTES):
            self._scan()

    def close(self) -> None:
        """Ends the open text."""
        if self._size <= self._small_bytes:
            text = b"".join(self._pieces)
            self.abandon()
            self.read(text)
            return
        glance = self.peek(self._take)
        for fields, index in self._unchecked:
            self._handle(fields, index)
        self.abandon()
        self.text_bytes += glance.text_bytes
        self.broken += glance.end is not End.WHOLE
        self.is_oversized = self.is_oversized or glance.is_oversized

    def peek(self, handle: OnDocument) -> Glance:
        """Gives `handle` what of the open text has not been handed over, as if the text ended here."""
        if self._size <= self._small_bytes:
            text = b"".join(self._pieces)
            end = self._parse(text, handle) if self._is_relevant(text) else End.WHOLE
            return Glance(end, self._text_bytes(text))
        scanner = self._scan()
        if scanner.fields:
            handle(dict(scanner.fields), scanner.open_index)
        end = End.WHOLE if scanner.is_closed else End.CUT_OFF
        return Glance(End.INVALID if self._is_broken else end, scanner.text_bytes, scanner.is_oversized)

    def abandon(self) -> None:
        """Drops the open text."""
        self._pieces.clear()
        self._unchecked.clear()
        self._size = self._waiting_bytes = 0
        self._scanner, self._is_broken = None, False

    def _scan(self) -> JsonScanner:
        text = b"".join(self._pieces)
        if self._scanner is None:
            self._scanner = JsonScanner(self._selection, self._take, element=self._element)
            text = text.removeprefix(grammar.BYTE_ORDER_MARK)
        self._pieces.clear()
        self._waiting_bytes = 0
        if not self._is_broken:
            try:
                self._scanner.feed(text)
            except InvalidJsonError:
                self._is_broken = True
        return self._scanner

    def _take(self, fields: Fields, index: int | None) -> None:
        if self.is_checked_at_end:
            self._unchecked.append((fields, index))
        else:
            self._handle(fields, index)

    def _parse(self, text: bytes, handle: OnDocument) -> End:
        """Reads a small text."""
        try:
            document = parse(text)
        except (ValueError, RecursionError):
            return self._scan_small(text, handle)
        if isinstance(document, list):
            self._hand_over_elements(document, handle)
        else:
            fields: Fields = {}
            pick(document, self._looked_up, fields)
            handle(fields, None)
        return End.WHOLE

    def _hand_over_elements(self, array: list[object], handle: OnDocument) -> None:
        for index, element in enumerate(array):
            selection, fields = self._element(index), Fields()
            if selection is not None:
                pick(element, selection, fields)
                handle(fields, index)
        if self._selection.leaf in COUNTED:
            handle({self._selection.name: len(array)}, None)

    def _scan_small(self, text: bytes, handle: OnDocument) -> End:
        """Reads several texts in one, or a part of one."""
        scanner = JsonScanner(self._selection, handle, element=self._element)
        try:
            scanner.feed(text.removeprefix(grammar.BYTE_ORDER_MARK))
            end = End.WHOLE if scanner.is_closed else End.CUT_OFF
        except InvalidJsonError:
            end = End.INVALID
        if scanner.fields:
            handle(scanner.fields, scanner.open_index)
        return end
