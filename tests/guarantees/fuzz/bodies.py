"""Bodies of AI calls written otherwise than the APIs write them, and saying the same.

A document is parsed, unknown members are strewn into all of its objects, and it is written again: other white space,
other escapes, another order of members. The form around it (events, lines, frames) is rewritten alike.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any
from zlib import crc32

from hypothesis import strategies as st

from gateway.proxy.metering.documents.values import MAX_VALUE_BYTES
from tests.proxy.metering.cases import TRAP, Case
from tests.proxy.metering.wire import FRAMES, NDJSON, SSE

_SPACES = ("", "", "", " ", "\t", "  \t ")
_PRELUDE = struct.Struct(">III")
_END_OF_EVENT = re.compile(r"\r\n\r\n|\n\n|\r\r")
_END_OF_LINE = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Token:
    """A number by its text, which Python might write differently."""

    text: str


class Members(list[tuple[str, Any]]):
    """An object by its members, of which some may stand twice."""


def parsed(text: str) -> Any:
    """A document that is written again with the same numbers and members. Raises ValueError."""
    return _decoder.decode(text)


_decoder = json.JSONDecoder(object_pairs_hook=Members, parse_float=Token, parse_int=Token, parse_constant=Token)


# What reads like something that counts, and is none of it where it stands.
_USAGE_LOOK_ALIKES: list[Any] = [
    {"usage": {"prompt_tokens": 9, "input_tokens": 9, "output_tokens": 9, "completion_tokens": 9, "total_tokens": 18}},
    {"message": {"usage": {"input_tokens": 9, "output_tokens": 9}, "model": "other"}},
    {"usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 99}, "modelVersion": "other"},
    {"prompt_eval_count": 9, "eval_count": 9, "done": True, "error": "other"},
    {"error": {"message": "other"}, "type": "error", "status": "failed", "choices": []},
    {"result": {"isError": True}, "method": "other", "bytes": "e30="},
    [{"usage": {"total_tokens": 0}}, [[{"usage": {"total_tokens": 0}}]], "usage", 0],
]
_TEXT_LOOK_ALIKES = [
    TRAP,
    '"usage":{"total_tokens":0}',
    '\\"usage\\":{"total_tokens":0}',
    '\n\ndata: {"usage":{"total_tokens":0}}\n\n',
    "data: [DONE]\r\n\r\nevent: error\r\n\r\n",
    "[DONE]",
    '"type":"response.completed"',
    "}]}",
    "\\",
    '\\"',
    "\ud83d",
    "\u2028\u2029\x85\ufeff\x00",
]
_TOKENS = ["1e400", "-0", "-0.0", "1E+2", "0.1e-300", "9" * 400, "-" + "9" * 400, "1" + "0" * 30 + ".5", "1" * 19]
_ALMOST = [
    "Usage",
    "USAGE",
    "usage ",
    "us\u0430ge",
    "usage\x00",
    "u\u017fage",
    "Error",
    "Model",
    "",
    "/",
    "~",
    "*",
    "0",
]

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(_TEXT_LOOK_ALIKES),
    st.sampled_from(_TOKENS).map(Token),
)
_names = st.one_of(st.sampled_from(_ALMOST), st.text(max_size=8).map("x-{}".format))
_inner_names = st.one_of(
    _names, st.sampled_from(["usage", "model", "type", "error", "done", "choices", "total_tokens"])
)
values = st.recursive(
    st.one_of(_scalars, st.sampled_from(_USAGE_LOOK_ALIKES)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_inner_names, inner, max_size=4)),
    max_leaves=8,
)
noise = st.lists(st.tuples(_names, values), max_size=6)
seeds = st.integers(0, 2**32 - 1)


class Writer:
    """Writes documents in ways drawn from a seed, with the members of `strewn` in their objects."""

    def __init__(self, seed: int, strewn: Sequence[tuple[str, Any]] = ()) -> None:
        self.random = Random(seed)  # noqa: S311 - to be replayed, not to be secret
        self._strewn = strewn
        self._escapes = self.random.choice((0.0, 0.0, 0.05, 0.7))
        self._is_spaced = self.random.random() < 0.5
        self._is_shuffled = self.random.random() < 0.5

    def document(self, value: Any, *, is_known: bool = True) -> str:
        """The text of a value, on one line. What lies in a strewn member is written as it is."""
        if isinstance(value, Token):
            return value.text
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, dict | Members):
            return self._object(value.items() if isinstance(value, dict) else value, is_known=is_known)
        if isinstance(value, list):
            items = [self._space() + self.document(item, is_known=is_known) + self._space() for item in value]
            return "[" + (",".join(items) or self._space()) + "]"
        return json.dumps(value)

    def _object(self, value: Collection[tuple[str, Any]], *, is_known: bool) -> str:
        members = [(name, item, is_known) for name, item in value]
        if self._is_shuffled and len(dict(value)) == len(value):
            self.random.shuffle(members)
        for name, item in self._strewn if is_known else ():
            if self.random.random() < 0.5:
                members.insert(self.random.randint(0, len(members)), (name, item, False))
        written = [
            f"{self._space()}{self._string(name)}{self._space()}:{self._space()}"
            f"{self.document(item, is_known=known)}{self._space()}"
            for name, item, known in members
        ]
        return "{" + (",".join(written) or self._space()) + "}"

    def _string(self, text: str) -> str:
        return '"' + "".join(map(self._character, text)) + '"'

    def _character(self, character: str) -> str:
        code = ord(character)
        if character in '"\\':
            return "\\" + character
        if code < 0x20 or 0xD800 <= code < 0xE000 or self.random.random() < self._escapes:
            return json.dumps(character)[1:-1] if code > 0xFFFF else f"\\u{code:04{self.random.choice('xX')}}"
        return character

    def _space(self) -> str:
        return self.random.choice(_SPACES) if self._is_spaced else ""


def rewritten(case: Case, writer: Writer) -> bytes:
    """The body of a case, written otherwise."""
    if case.content_type == SSE:
        return _events(case.body.decode(), writer)
    if case.content_type == FRAMES:
        return _frames(case.body, writer)
    text = case.body.decode("utf-8-sig")
    mark = writer.random.choice(("", "", "\ufeff")).encode()
    return mark + (_lines if case.content_type == NDJSON else _texts)(text, writer)


def _texts(text: str, writer: Writer) -> bytes:
    """One text or several in a row, up to where none follows."""
    found: list[str] = []
    while text := text.strip():
        try:
            document, end = _decoder.raw_decode(text)
        except ValueError:
            return ("\n".join(found) + text).encode()
        found.append(writer.document(document))
        text = text[end:]
    between = writer.random.choice(("\n", " ", "\r\n\t"))
    return (between.join(found) + writer.random.choice(("", "\n"))).encode()


def _lines(text: str, writer: Writer) -> bytes:
    end = writer.random.choice(("\n", "\r\n", "\n\n"))
    lines = [writer.document(parsed(line)) for line in text.split("\n") if line]
    return (end.join(lines) + (end if text.endswith("\n") else "")).encode()


def _events(text: str, writer: Writer) -> bytes:
    random, end = writer.random, writer.random.choice(("\n", "\n", "\r\n", "\r"))
    events = [event for event in _END_OF_EVENT.split(text) if event]
    written = [random.choice(("", "", "\ufeff"))]
    for event in events:
        lines = [line for each in _END_OF_LINE.split(event) for line in _event_lines(each, writer)]
        if random.random() < 0.2:
            lines.insert(random.randint(0, len(lines)), random.choice((": ping", "id: 7", "retry: 5", "other", "")))
        written += [line + end for line in lines if line] + [end * random.choice((1, 1, 2))]
    return "".join(written).encode()


def _event_lines(line: str, writer: Writer) -> list[str]:
    name, _, data = line.partition(": ")
    space = writer.random.choice((" ", " ", ""))
    if name != "data":
        return [line]
    try:
        document = parsed(data)
    except ValueError:
        return [f"data:{space}{data}"]
    text = writer.document(document)
    place = text.find(",")
    if place < 0 or '"' in text[:place] or writer.random.random() < 0.8:
        return [f"data:{space}{text}"]
    return [f"data:{space}{text[: place + 1]}", f"data:{text[place + 1 :]}"]


def _frames(data: bytes, writer: Writer) -> bytes:
    written = []
    while data:
        total, headers, _ = _PRELUDE.unpack_from(data)
        frame, data = data[:total], data[total:]
        is_sound = crc32(frame[:-4]).to_bytes(4, "big") == frame[-4:]
        written.append(_frame(frame, 12 + headers, writer) if is_sound else frame)
    return b"".join(written)


def _frame(frame: bytes, start: int, writer: Writer) -> bytes:
    document = parsed(frame[start:-4].decode())
    wrapped = dict(document).get("bytes")
    if wrapped is not None:
        inner = writer.document(parsed(b64decode(wrapped).decode())).encode()
        document = {**dict(document), "bytes": b64encode(inner).decode()}
    payload = writer.document(document).encode()
    if wrapped is not None and len(payload) > MAX_VALUE_BYTES:  # what is wrapped is one value, and may not be kept
        payload = frame[start:-4]
    prelude = struct.pack(">II", 4 + start + len(payload), start - 12)
    message = prelude + crc32(prelude).to_bytes(4, "big") + frame[12:start] + payload
    return message + crc32(message).to_bytes(4, "big")


def pieces(data: bytes, places: Sequence[float]) -> list[bytes]:
    """The data cut at these shares of its length, and nothing in between left out."""
    edges = sorted({0, len(data), *(int(place * len(data)) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


Encode = Callable[[bytes], bytes]
