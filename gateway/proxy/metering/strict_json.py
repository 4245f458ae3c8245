"""JSON of requests that are priced: one reading, whatever parser stands behind the gateway.

What parsers disagree about is refused: members that stand twice on the way to what is read (RFC 8259, section 4),
names that differ by case alone, NaN and Infinity, other encodings than UTF-8, a byte order mark, and depth.
"""

from __future__ import annotations

import codecs
import json
import re
from itertools import accumulate
from typing import Any

from gateway.proxy.metering.documents.grammar import InvalidJsonError
from gateway.proxy.metering.documents.scanner import SLICE_BYTES, JsonScanner
from gateway.proxy.metering.documents.selection import Fields, Leaf, Selection
from gateway.proxy.metering.documents.values import MAX_PARSED_BYTES, parse_plain, pick, refuse_constant
from policies.model import Refusal, Refused

MAX_DEPTH = 64
_DUPLICATE: Any = object()  # names, in an object, the member that stands there twice

_OBJECT = re.compile(rb"[ \t\r\n]*+\{")
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_fields(body: bytes, selection: Selection, *, small_bytes: int = MAX_PARSED_BYTES) -> Fields:
    """The selected values of a request that must be a JSON object; raises Refused where it is none, or ambiguous.

    A large body is read in slices, between which other threads get their turn.
    """
    try:
        if not _OBJECT.match(body):
            raise InvalidJsonError("the text is not an object")
        read = _read_small if len(body) <= small_bytes else _read_large
        return read(body, selection)
    except (ValueError, RecursionError) as fault:
        raise invalid_body(f"The body must be a JSON object in UTF-8: {fault}.") from None


def invalid_body(detail: str) -> Refused:
    return Refused(Refusal.INVALID_BODY, detail)


def _read_small(body: bytes, selection: Selection) -> Fields:
    if _openings(body) > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        body.decode()  # what is not UTF-8 is told first
        raise InvalidJsonError("the text is nested too deep")
    try:
        document = parse_plain(body)
    except ValueError:  # the standard library takes it all the same, or says better what is wrong
        document = _decoder.decode(body.decode())
    _check_names(document, selection)
    fields: Fields = {}
    pick(document, selection, fields)
    return fields


def _read_large(body: bytes, selection: Selection) -> Fields:
    documents: list[Fields] = []

    scanner = JsonScanner(
        selection, lambda fields, _: documents.append(fields), on_name=_check_name, max_depth=MAX_DEPTH
    )
    utf8 = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), SLICE_BYTES):
        piece = body[start : start + SLICE_BYTES]
        utf8.decode(piece)
        scanner.feed(piece)
    utf8.decode(b"", final=True)
    scanner.close()
    if len(documents) > 1:
        raise InvalidJsonError("more follows the object")
    return documents[0]


def _members(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    members: dict[Any, Any] = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        members[_DUPLICATE] = next(name for name in names if names.count(name) > 1)
    return members


_decoder = json.JSONDecoder(object_pairs_hook=_members, parse_constant=refuse_constant)


def _check_names(value: Any, selection: Selection) -> None:
    """Raises InvalidJsonError for an ambiguous name in the containers on the way to what is read."""
    if isinstance(value, dict) and (selection.is_descended or selection.leaf is Leaf.SPAN):
        if _DUPLICATE in value:
            raise InvalidJsonError(f"{value[_DUPLICATE]!r} stands twice")
        folded = "".join(value)
        if not (selection.is_folded and folded.isascii() and folded.islower()):  # nearly all are their own case folds
            names: set[str] = set()
            for name in value:
                _check_name(name, selection, names)
        for name, below in selection.containers.items():
            if name in value:
                _check_names(value[name], below)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            below_it = selection.element(index)
            if below_it is not None:
                _check_names(element, below_it)


def _check_name(name: str, selection: Selection, names: set[str]) -> None:
    folded = name.casefold()
    if folded in names:
        raise InvalidJsonError(f"{name!r} appears twice, or beside a name that differs from it only in case")
    if folded in selection.folded_names and name not in selection.members:
        raise InvalidJsonError(f"{name!r} differs only in case from a name that is read")
    names.add(folded)


def _openings(body: bytes) -> int:
    """How many brackets open, in strings too. `bytes.count` takes five times as long, for it compares each byte."""
    return 2 * len(body) - len(body.replace(b"[", b"")) - len(body.replace(b"{", b""))


def _depth(body: bytes) -> int:
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets))
