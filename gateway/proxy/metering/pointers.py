"""Numbers at JSON Pointers (RFC 6901), for prices that name a place instead of a reader.

A number counts itself, an array its length, a string its characters. Of several pointers the first that resolves to
one of these wins in each text, and of several texts the last that has one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce

from gateway.proxy.metering.body import Body
from gateway.proxy.metering.documents import grammar
from gateway.proxy.metering.documents.reader import DocumentReader
from gateway.proxy.metering.documents.selection import INDEX, Fields, Leaf, Selection, select_paths
from gateway.proxy.metering.documents.values import MAX_PARSED_BYTES
from policies.pricing.json_pointer import parts
from policies.pricing.units import Count
from policies.usage.counts import MissingReason


class PointerReader:
    """Reads the value at pointers; `value` can be asked at any moment. What cannot be read has none.

    `leaf` says what counts there.
    """

    def __init__(
        self,
        pointers: Sequence[str],
        content_type: bytes,
        content_encoding: bytes,
        *,
        leaf: Leaf = Leaf.SIZE,
        small_bytes: int = MAX_PARSED_BYTES,
    ) -> None:
        self._pointers = pointers
        self._value: Count | None = None
        self._marks = _marks(pointers)
        self._of_element = {index: _selection_of_element(pointers, index, leaf) for index in _indices(pointers)}
        self._of_any_element = _selection_of_element(pointers, None, leaf)
        self._documents = DocumentReader(
            _selection(pointers, leaf),
            self._take,
            is_relevant=self._is_relevant,
            element=lambda index: self._of_element.get(index, self._of_any_element),
            small_bytes=small_bytes,
        )
        self._body = Body(content_type, content_encoding, self._documents)
        self.feed = self._body.feed

    def value(self) -> Count | None:
        open_values: list[Count | None] = []
        self._body.peek(lambda fields, _: open_values.append(_first(fields, self._pointers)))
        return reduce(_latest, open_values, self._value)  # which has grown while the open text was read

    @property
    def missing(self) -> MissingReason:
        """Why there is no value."""
        if self._body.fault is not None:
            return self._body.fault
        if self._documents.is_oversized:
            return MissingReason.SIZE
        return MissingReason.SHAPE if self._body.is_broken else MissingReason.ABSENT

    def _take(self, fields: Fields, _: int | None) -> None:
        self._value = _latest(self._value, _first(fields, self._pointers))

    def _is_relevant(self, text: bytes) -> bool:
        is_stream = self._body.framing is not None and self._body.framing.is_stream
        if not is_stream or not self._marks or any(mark in text for mark in self._marks):
            return True
        return b"\\u00" in text and grammar.ESCAPED_NAME.search(text) is not None


def _first(fields: Fields, pointers: Sequence[str]) -> Count | None:
    return next((fields[pointer] for pointer in pointers if fields.get(pointer) is not None), None)


def _latest(earlier: Count | None, later: Count | None) -> Count | None:
    return later if later or (later is not None and not earlier) else earlier


def _selection(pointers: Sequence[str], leaf: Leaf) -> Selection:
    return select_paths((parts(pointer), leaf, pointer) for pointer in pointers)


def _selection_of_element(pointers: Sequence[str], index: int | None, leaf: Leaf) -> Selection:
    """In an element of a root array a pointer begins with the element's index, or at the element itself."""
    paths = [(parts(pointer), pointer) for pointer in pointers if pointer]
    within = [(path[1:], pointer) for path, pointer in paths if path[0] == str(index)]
    return select_paths((path, leaf, pointer) for path, pointer in paths + within)


def _indices(pointers: Sequence[str]) -> set[int]:
    first = [pointer.split("/")[1] for pointer in pointers if pointer]
    return {int(token) for token in first if INDEX.fullmatch(token)}


def _marks(pointers: Sequence[str]) -> list[bytes]:
    """A member's name of each pointer as it stands in JSON; none where one has no name that can stand in one way only.

    Texts of a stream without any of them are not parsed.
    """
    marks = []
    for pointer in pointers:
        names = [token for token in parts(pointer) if _PLAIN_NAME.fullmatch(token)]
        if not names:
            return []
        marks.append(b'"' + names[-1].encode() + b'"')
    return marks


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
