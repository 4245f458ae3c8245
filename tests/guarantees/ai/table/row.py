"""A row of the table: one call, what the provider answers, and what must come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.proxy.metering.wire import ENCODINGS, JSON

Counts = Mapping[str, int]
_CODINGS = [(name, encode) for name, encode in ENCODINGS if name not in (b"", b"identity")]


@dataclass(frozen=True, slots=True)
class Row:
    """`sent` is the body of the provider, and `received` what of it the client must get; None is all of it.

    The numbers are written from the documentation of each API, by the prices of gateway.yaml beside the tests.
    `sent` goes out in pieces of `piece_bytes`, all at once at 0. `breaks` cuts the provider's connection after it.
    `leaves` closes the client's connection after it; the provider goes on with `rest`, or with nothing at all if that
    is None.
    """

    name: str
    path: str
    request: bytes
    sent: bytes
    counts: Counts
    charge: int
    outcome: str = "succeeded"
    source: str = "reported"
    content_type: bytes = JSON
    received: bytes | None = None
    status: int = 200
    encoding: bytes = b""
    piece_bytes: int = 0
    breaks: bool = False
    leaves: bool = False
    rest: bytes | None = b""
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bytes:
        return self.sent if self.received is None else self.received


def varied(row: Row, **changes: Any) -> Row:
    """The row with other values in these fields."""
    return replace(row, **changes)


def encoded(row: Row) -> Iterator[Row]:
    """The row in each content coding that a client may ask for."""
    for name, encode in _CODINGS:
        yield replace(row, name=f"{row.name}, {name.decode()}", sent=encode(row.sent), encoding=name)


def split(row: Row, *sizes: int) -> Iterator[Row]:
    """The row in pieces of these sizes."""
    for size in sizes:
        yield replace(row, name=f"{row.name}, in pieces of {size}", piece_bytes=size)


def padded(document: bytes, size: int) -> bytes:
    """The request with spaces after it, so that an estimate of it can be told by heart."""
    assert len(document) <= size
    return document.ljust(size)


def names(rows: Sequence[Row]) -> list[str]:
    return [row.name for row in rows]
