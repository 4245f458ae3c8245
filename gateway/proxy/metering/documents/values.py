"""Values as they are read from JSON: decoded, measured, and merged where a member stands twice."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from typing import Any, NoReturn

import jiter

from gateway.proxy.metering.documents.grammar import InvalidJsonError
from gateway.proxy.metering.documents.selection import COUNTED, Fields, Leaf, Selection
from policies.usage.counts import MAX_COUNT, latest

MAX_VALUE_BYTES = 32 * 1024  # of one value that is kept
MAX_PARSED_BYTES = 64 * 1024  # a larger text is scanned, in slices
_VALUE, _SIZE = Leaf.VALUE, Leaf.SIZE


def merge_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose duplicate members merge; `object_pairs_hook` of responses."""
    members = dict(pairs)
    if len(members) != len(pairs):
        members = {}
        for name, value in pairs:
            members[name] = latest(members.get(name), value)
    return members


def refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON; `parse_constant` of all."""
    raise InvalidJsonError(f"{name} is no number")


_decoder = json.JSONDecoder(object_pairs_hook=merge_pairs, parse_constant=refuse_constant)


# It refuses what the standard library refuses, and more; the rest it reads alike.
parse_plain = partial(jiter.from_json, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="none")


def parse(text: bytes) -> Any:
    """The document of a response, after a byte order mark too. Raises ValueError or RecursionError where it is none."""
    try:
        return parse_plain(text)
    except ValueError:
        return _decoder.decode(text.decode("utf-8-sig", "replace"))


def size_of(value: Any) -> int | Decimal | None:
    """What a value counts as: a number itself, an array its length, a string its characters; None for the rest."""
    if isinstance(value, list | str):
        return len(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= MAX_COUNT:  # false for NaN
        return None
    return value if isinstance(value, int) else Decimal(repr(value))


def pick(value: Any, selection: Selection, fields: Fields) -> None:
    """Adds the selected values of a parsed document to the fields."""
    if selection.leaf is not None:
        _pick_leaf(value, selection, fields)
    if isinstance(value, dict):
        members = selection.members
        for name in members:
            if name not in value:
                continue
            below, inner = members[name], value[name]
            if below.is_descended or below.name in fields:
                pick(inner, below, fields)
            elif below.leaf is _VALUE:
                fields[below.name] = inner
            elif below.leaf is _SIZE and type(inner) is list:
                fields[below.name] = len(inner)
            else:
                _pick_leaf(inner, below, fields)
    elif isinstance(value, list):
        _pick_elements(value, selection, fields)


def _pick_leaf(value: Any, selection: Selection, fields: Fields) -> None:
    if selection.leaf is _VALUE:
        store(fields, selection.name, value)
    elif selection.leaf in COUNTED and value is not None:  # null is what an SDK writes for an option that is not set
        is_text = selection.leaf is Leaf.COUNT and isinstance(value, str)
        store(fields, selection.name, None if is_text else size_of(value))
    elif selection.leaf is Leaf.SPAN:
        fields[selection.name] = ()


def _pick_elements(array: list[Any], selection: Selection, fields: Fields) -> None:
    if selection.each is not None:
        for element in array:
            pick(element, selection.each, fields)
    for index, below in selection.at.items():
        if index < len(array):
            pick(array[index], below, fields)


def store(fields: Fields, name: str, value: Any) -> None:
    fields[name] = latest(fields.get(name), value)


class Capture:
    """The bytes of one value that is kept, or that it was larger than what is kept."""

    def __init__(self, name: str, start: int) -> None:
        self._name = name
        self._start = start
        self._bytes: bytearray | None = bytearray()

    def add(self, data: bytes, end: int) -> bool:
        """Adds what of the data belongs to the value. False where it has become too large."""
        if self._bytes is not None and len(self._bytes) + end - self._start <= MAX_VALUE_BYTES:
            self._bytes += data[self._start : end]
        else:
            self._bytes = None
        self._start = 0
        return self._bytes is not None

    def store(self, fields: Fields) -> None:
        if self._bytes is not None:
            store(fields, self._name, parse(bytes(self._bytes)))
