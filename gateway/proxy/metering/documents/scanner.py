"""An incremental JSON parser that keeps what a selection names and passes over everything else.

It holds the stack of open containers and the token that a chunk cut off. Values are found by structure alone: text
that looks like a member never counts. The grammar is checked throughout, so that a verdict does not depend on size.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.proxy.metering.documents import grammar
from gateway.proxy.metering.documents.grammar import InvalidJsonError
from gateway.proxy.metering.documents.selection import COUNTED, Fields, Leaf, Selection
from gateway.proxy.metering.documents.values import Capture, parse, size_of, store

SLICE_BYTES = 16 * 1024  # what one step looks at: bounds memory, and how long a step keeps other threads waiting
MAX_TOKEN_BYTES = 8192  # of numbers, and of names that are compared
MAX_DEPTH = 10_000

OnDocument = Callable[[Fields, "int | None"], None]
OnName = Callable[[str, Selection, set[str]], None]

_Step = Callable[[bytes, int], int]
_MORE = -1  # a step needs more bytes than there are
_QUOTE, _COMMA, _COLON = b'",:'
_OPEN_OBJECT, _CLOSE_OBJECT, _CLOSE_ARRAY = b"{}]"
_OPENING, _CLOSING = b"{[", b"}]"


class _Frame:
    """An open container in which something is read."""

    __slots__ = ("count", "is_object", "names", "selection", "start")

    def __init__(self, selection: Selection, start: int, *, is_object: bool) -> None:
        self.selection = selection
        self.start = start
        self.is_object = is_object
        self.count = 0  # of elements that have ended
        self.names: set[str] = set()


class JsonScanner:
    """Gives the fields of each document: of a root, or of each element where the root is an array.

    `element` gives the selection of a root array's element, `on_name` sees each name beside a selected one and may
    raise InvalidJsonError. `feed` and `close` raise it too; `fields` are those of the open document.
    """

    def __init__(
        self,
        selection: Selection,
        on_document: OnDocument,
        *,
        element: Callable[[int], Selection | None] | None = None,
        on_name: OnName | None = None,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self.fields: Fields = {}
        self.text_bytes = 0
        self.roots = 0  # that have closed
        self.is_oversized = False
        self._selection = selection
        self._on_document = on_document
        self._element = element or (lambda _: selection)
        self._on_name = on_name
        self._max_depth = max_depth
        self._step: _Step = self._root
        self._carry = b""
        self._offset = 0  # of the carry's first byte
        self._frames: list[_Frame] = []
        self._skipped = bytearray()  # open brackets of what is passed over
        self._next: Selection | None = None  # what is read of the value that comes
        self._may_close = False  # whether a bracket may stand where a value or a name is due
        self._capture: Capture | None = None
        self._string_start = 0
        self._string_size = 0

    @property
    def is_closed(self) -> bool:
        """Whether a root has closed and no other is open."""
        return self.roots > 0 and self._step == self._root and not self._carry

    @property
    def open_index(self) -> int | None:
        """Which element of a root array the open fields are of."""
        return self._frames[0].count if self._frames and not self._frames[0].is_object else None

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the text, however it is cut."""
        for start in range(0, len(chunk), SLICE_BYTES):
            self._scan(chunk[start : start + SLICE_BYTES])

    def close(self) -> None:
        """Takes the end of the text. Raises InvalidJsonError where a value is open."""
        self._scan(b"\n")
        if not self.is_closed:
            raise InvalidJsonError("the text ends within a value")

    def _scan(self, piece: bytes) -> None:
        data = self._carry + piece
        position = 0
        while position < len(data) and (following := self._step(data, position)) != _MORE:
            position = following
        if self._capture is not None and not self._capture.add(data, position):
            self.is_oversized = True
        self._carry = data[position:]
        self._offset += position

    # Each step takes the data and a position, and gives the next position or _MORE.

    def _root(self, data: bytes, position: int) -> int:
        position = _past_space(data, position)
        if position == len(data):
            return position
        self._next, self._may_close = self._selection, False
        return self._value(data, position)

    def _value(self, data: bytes, position: int) -> int:
        if self._next is None:
            past = self._past_items(data, position)
            if past != position:
                return past  # they are counted: what is read again after a cut begins behind them
        position = _past_space(data, position)
        if position == len(data):
            return position
        byte = data[position]
        if byte == _QUOTE:
            return self._begin_string(data, position)
        if byte in _OPENING:
            return self._open(byte, position)
        if byte == _CLOSE_ARRAY and self._may_close:
            return self._close(data, position)
        return self._scalar(data, position)

    def _past_items(self, data: bytes, position: int) -> int:
        """Passes over scalars of an array, many at a time."""
        if not self._frames or self._is_in_object or not self._may_run or not self._may_pass_elements:
            return position
        end = grammar.end(grammar.ITEMS.match(data, position))
        if end != position:
            if not self._skipped:
                self._frames[-1].count += grammar.items_in(data[position:end])
            self._after_run(self._value, is_open=data[end - 1] == _COMMA)
        return end

    def _name(self, data: bytes, position: int) -> int:
        if self._skipped and self._may_run:
            end = grammar.end(grammar.MEMBERS.match(data, position))
            if end != position:
                self._after_run(self._name, is_open=data[end - 1] == _COMMA)
                return end
        position = _past_space(data, position)
        if position == len(data):
            return position
        if data[position] == _CLOSE_OBJECT and self._may_close:
            return self._close(data, position)
        if data[position] != _QUOTE:
            raise InvalidJsonError("a name must be a string")
        return self._read_name(data, position)

    def _after_run(self, more: _Step, *, is_open: bool) -> None:
        self._step = more if is_open else self._after_value
        self._may_close = False
        self._next = None
        if is_open and not self._skipped:
            self._next = self._selected_element(self._frames[-1])

    def _read_name(self, data: bytes, position: int) -> int:
        found = grammar.NAME.match(data, position)
        if found is None:
            if not self._skipped and len(data) - position <= MAX_TOKEN_BYTES:
                return _MORE
            return self._begin_long_name(position)
        self._next = None if self._skipped else self._selected_member(found.group())
        self._step = self._colon
        return found.end()

    def _begin_long_name(self, position: int) -> int:
        """A name too long to be a selected one is passed over like a string."""
        if self._on_name is not None and not self._skipped:
            raise InvalidJsonError("a name is too long")
        self._next, self._step = None, self._in_name
        return position + 1

    def _selected_member(self, token: bytes) -> Selection | None:
        frame = self._frames[-1]
        name = str(json.loads(token)) if b"\\" in token else token[1:-1].decode("utf-8", "replace")
        if self._on_name is not None:
            self._on_name(name, frame.selection, frame.names)
        return frame.selection.members.get(name)

    def _selected_element(self, frame: _Frame) -> Selection | None:
        return self._element(frame.count) if len(self._frames) == 1 else frame.selection.element(frame.count)

    def _colon(self, data: bytes, position: int) -> int:
        position = _past_space(data, position)
        if position == len(data):
            return position
        if data[position] != _COLON:
            raise InvalidJsonError("a colon must follow a name")
        self._step, self._may_close = self._value, False
        return position + 1

    def _scalar(self, data: bytes, position: int) -> int:
        found = grammar.SCALAR.match(data, position)
        if found is None:
            begun = grammar.SCALAR_BEGUN.match(data, position)
            if grammar.end(begun) != len(data) or len(data) - position > MAX_TOKEN_BYTES:
                raise InvalidJsonError("no value stands where one must")
            return _MORE
        if self._next is not None:
            self._read_scalar(found.group(), self._next, self._offset + position)
        self._end_value()
        return found.end()

    def _read_scalar(self, token: bytes, selection: Selection, start: int) -> None:
        if selection.leaf is Leaf.VALUE:
            store(self.fields, selection.name, parse(token))
        elif selection.leaf in COUNTED and token != b"null":
            store(self.fields, selection.name, size_of(parse(token)))
        elif selection.leaf is Leaf.SPAN:
            self.fields[selection.name] = (start, start + len(token))

    def _begin_string(self, data: bytes, position: int) -> int:
        selection = self._next
        if selection is None:
            found = grammar.STRING.match(data, position)
            if found is not None:
                self._end_value()
                return found.end()
        elif selection.leaf is Leaf.VALUE:
            self._capture = Capture(selection.name, position)
        self._string_start, self._string_size = self._offset + position, 0
        self._step = self._in_string
        return position + 1

    def _in_string(self, data: bytes, position: int) -> int:
        selection = self._next
        end = grammar.string_part_end(data, position)
        if selection is not None and selection.leaf is Leaf.SIZE:
            end = grammar.before_half_pair(data, position, end)
            self._string_size += grammar.length_of(data[position:end])
        elif selection is not None and selection.leaf is Leaf.TEXT:
            self.text_bytes += end - position
        if end < len(data) and data[end] == _QUOTE:
            self._end_string(data, end + 1)
            return end + 1
        return end if end != position else _MORE

    def _end_string(self, data: bytes, end: int) -> None:
        selection = self._next
        if self._capture is not None and not self._skipped:
            self._end_capture(data, end)
        elif selection is not None and selection.leaf is Leaf.SIZE:
            store(self.fields, selection.name, self._string_size)
        elif selection is not None and selection.leaf is Leaf.COUNT:
            store(self.fields, selection.name, None)
        elif selection is not None and selection.leaf is Leaf.SPAN:
            self.fields[selection.name] = (self._string_start, self._offset + end)
        self._end_value()

    def _in_name(self, data: bytes, position: int) -> int:
        end = grammar.string_part_end(data, position)
        if end < len(data) and data[end] == _QUOTE:
            self._step = self._colon
            return end + 1
        return end if end != position else _MORE

    def _open(self, byte: int, position: int) -> int:
        if self._depth >= self._max_depth:
            raise InvalidJsonError("the text is nested too deep")
        selection, is_object = self._next, byte == _OPEN_OBJECT
        self._next, self._may_close = None, True
        self._step = self._name if is_object else self._value
        if selection is not None and (not self._frames or _is_descended(selection, is_object=is_object)):
            frame = _Frame(selection, self._offset + position, is_object=is_object)
            self._frames.append(frame)
            self._next = None if is_object else self._selected_element(frame)
        else:
            self._skipped.append(byte)
            if selection is not None and selection.leaf is Leaf.VALUE:
                self._capture = Capture(selection.name, position)
            elif selection is not None and selection.leaf in COUNTED:
                store(self.fields, selection.name, None)  # it is there, and counts nothing
        return position + 1

    def _close(self, data: bytes, position: int) -> int:
        is_object = data[position] == _CLOSE_OBJECT
        if is_object != self._is_in_object:
            raise InvalidJsonError("brackets do not match")
        if self._skipped:
            self._skipped.pop()
            if self._capture is not None and not self._skipped:
                self._end_capture(data, position + 1)
            self._end_value()
        else:
            self._close_frame(self._frames.pop(), self._offset + position + 1)
        return position + 1

    def _close_frame(self, frame: _Frame, end: int) -> None:
        leaf, name = frame.selection.leaf, frame.selection.name
        if leaf is Leaf.SPAN:
            self.fields[name] = (frame.start, end)
        elif leaf in COUNTED and not frame.is_object:
            store(self.fields, name, frame.count)
        self._end_value(is_array=not frame.is_object)

    def _after_value(self, data: bytes, position: int) -> int:
        position = _past_space(data, position)
        if position == len(data):
            return position
        if data[position] in _CLOSING:
            return self._close(data, position)
        if data[position] != _COMMA:
            raise InvalidJsonError("a comma or a bracket must follow a value")
        self._after_run(self._name if self._is_in_object else self._value, is_open=True)
        return position + 1

    def _end_value(self, *, is_array: bool = False) -> None:
        """A value has ended: its container goes on, or the root is whole.

        The elements of a root array have been delivered by then.
        """
        if not self._frames:
            self._step = self._root
            self.roots += 1
            if self.fields or not is_array:
                self._deliver(None)
            return
        self._step = self._after_value
        frame = self._frames[-1]
        if not self._skipped and not frame.is_object:
            frame.count += 1
            if len(self._frames) == 1:
                self._deliver(frame.count - 1)

    def _deliver(self, index: int | None) -> None:
        fields, self.fields = self.fields, {}
        self._on_document(fields, index)

    def _end_capture(self, data: bytes, end: int) -> None:
        capture, self._capture = self._capture, None
        if capture is not None and capture.add(data, end):
            capture.store(self.fields)
        else:
            self.is_oversized = True

    @property
    def _depth(self) -> int:
        return len(self._frames) + len(self._skipped)

    @property
    def _may_run(self) -> bool:
        """Whether values that are passed over many at a time stay within the depth."""
        return self._depth + grammar.RUN_DEPTH <= self._max_depth

    @property
    def _may_pass_elements(self) -> bool:
        """Whether no further element of the open array is selected."""
        if self._skipped:
            return True
        selection, count = self._frames[-1].selection, self._frames[-1].count
        return len(self._frames) > 1 and selection.each is None and all(index < count for index in selection.at)

    @property
    def _is_in_object(self) -> bool:
        if self._skipped:
            return self._skipped[-1] == _OPEN_OBJECT
        return self._frames[-1].is_object


def _is_descended(selection: Selection, *, is_object: bool) -> bool:
    return selection.is_descended or selection.leaf is Leaf.SPAN or (selection.leaf in COUNTED and not is_object)


def _past_space(data: bytes, position: int) -> int:
    return grammar.end(grammar.SPACE.match(data, position))
