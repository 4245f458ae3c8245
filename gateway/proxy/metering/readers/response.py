"""Reads the responses of an API: decodes and frames the bytes, selects fields, and merges them into one reading."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from gateway.proxy.metering.body import Body
from gateway.proxy.metering.documents import grammar
from gateway.proxy.metering.documents.reader import DocumentReader, End, Glance
from gateway.proxy.metering.documents.selection import Fields, Selection
from gateway.proxy.metering.documents.values import MAX_PARSED_BYTES
from gateway.proxy.metering.readers.reading import Counts, ResponseReading, Statement
from policies.usage.counts import MissingReason, Usage, merge_counts

_OPENING_TEXTS = 4  # of a stream, read for the model that serves it
_MARK_BYTES = 16  # at most, of a text that is no JSON but a mark
_DONE = b"[DONE]"  # ends a stream of OpenAI's; no JSON


@dataclass(frozen=True)
class ResponseFormat:
    """Where an API says what in its responses.

    `state` takes selected values by path, or a whole document that has nothing selected below its members. `says_more`
    tells from a raw text of a stream whether it has more than content, `text_bytes` how much content. Below the members
    `in_streams` nothing but text is read of a whole document.
    """

    selection: Selection
    state: Callable[[Fields, bytes], Statement]
    normalize: Callable[[Counts], Usage | None]
    says_more: Callable[[bytes], bool]
    text_bytes: Callable[[bytes], int]
    in_streams: frozenset[str] = frozenset()

    @cached_property
    def nested(self) -> frozenset[str]:
        """The members of a document below which more than text is read."""
        looked_up = self.selection.without_texts or Selection()
        return frozenset(name for name, below in looked_up.members.items() if below.is_descended) - self.in_streams


@dataclass(slots=True)
class _Said:
    """What the texts of a response have said together."""

    model: str | None = None
    counts: dict[str, int | Decimal] = field(default_factory=dict)
    is_error: bool = False
    is_complete: bool | None = None

    def add(self, statement: Statement) -> None:
        self.model = statement.model or self.model
        if statement.counts:
            self.counts = merge_counts(self.counts, statement.counts) if self.counts else dict(statement.counts)
        self.is_error = self.is_error or statement.is_error
        if statement.is_complete is not None:
            self.is_complete = statement.is_complete


class ResponseReader:
    """Reads one response. `reading` can be asked at any moment, and more be fed after it. Nothing here fails a call."""

    def __init__(
        self,
        response_format: ResponseFormat,
        content_type: bytes,
        content_encoding: bytes,
        *,
        small_bytes: int = MAX_PARSED_BYTES,
    ) -> None:
        self._format = response_format
        self._said = _Said()
        self._texts = 0
        self._documents = DocumentReader(
            response_format.selection,
            self._take,
            is_relevant=self._is_relevant,
            text_bytes=response_format.text_bytes,
            small_bytes=small_bytes,
        )
        self._body = Body(content_type, content_encoding, self._documents)
        self._framing = self._body.framing
        self.feed = self._body.feed

    def reading(self) -> ResponseReading:
        """What has been said until now, the open text included as far as it has come."""
        statements: list[Statement] = []
        glance = self._body.peek(lambda fields, _: statements.append(self._state(fields)))
        said = self._said
        if statements:
            said = _Said(said.model, said.counts, said.is_error, said.is_complete)
            for statement in statements:
                said.add(statement)
        usage = self._format.normalize(said.counts)
        missing = None if usage is not None else self._missing(glance)
        text_bytes = self._documents.text_bytes + glance.text_bytes
        if missing is MissingReason.SHAPE and not text_bytes:
            text_bytes = self._body.plain_bytes
        return ResponseReading(
            said.model,
            usage,
            missing,
            said.is_error,
            glance.end is End.WHOLE if said.is_complete is None else said.is_complete,
            text_bytes,
        )

    def _missing(self, glance: Glance) -> MissingReason:
        if self._body.fault is not None:
            return self._body.fault
        if self._documents.is_oversized or glance.is_oversized:
            return MissingReason.SIZE
        is_broken = self._body.is_broken or glance.end is End.INVALID
        return MissingReason.SHAPE if is_broken else MissingReason.ABSENT

    def _state(self, fields: Fields) -> Statement:
        return self._format.state(fields, self._framing.event_name if self._framing is not None else b"")

    def _take(self, fields: Fields, _: int | None) -> None:
        self._texts += 1
        self._said.add(self._state(fields))

    def _is_relevant(self, text: bytes) -> bool:
        """Whether a text is worth parsing. Most of a stream is content alone, and parsing is what costs."""
        if self._framing is None or not self._framing.is_stream:
            return True
        if len(text) <= _MARK_BYTES:
            mark = text.strip()
            if mark == _DONE:
                self._said.is_complete = True
            if mark in (b"", _DONE):
                return False
        if self._framing.event_name == b"error":
            self._said.is_error = True
        if self._texts < _OPENING_TEXTS and self._said.model is None:
            return True
        return self._format.says_more(text) or (b"\\" in text and grammar.ESCAPED_NAME.search(text) is not None)


def member_finder(*names: str, types: str = "") -> Callable[[bytes], bool]:
    """Whether a raw text has a member of one of these names with a value, or a string that `types` matches.

    A quote within a string is escaped, so that generated text passes for neither. Null is no value: OpenAI writes
    `"usage":null` into every event of some streams.
    """
    members = rb"(?:" + "|".join(names).encode() + rb')"[ \t\r\n]*+:[ \t\r\n]*+(?!null)'
    pattern = re.compile(rb'"(?:' + members + (rb"|" + types.encode() + rb'"' if types else b"") + rb")")
    return lambda text: pattern.search(text) is not None


def text_counter(*names: str) -> Callable[[bytes], int]:
    """Counts the bytes of strings under these names, as they stand in a raw text.

    A quote within a string is escaped, so that no generated text passes for a member. It serves estimates only.
    """
    pattern = re.compile(rb'"(?:' + "|".join(names).encode() + rb')"\s?+:\s?+"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)

    def count(text: bytes) -> int:
        return sum(map(len, pattern.findall(text)))

    return count
