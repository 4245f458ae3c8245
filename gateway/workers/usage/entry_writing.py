"""Writes journal entries into PostgreSQL, in the transaction of whoever has read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.usage import poison
from gateway.ledger.usage.ingestion import MalformedLines, correct, ingest
from gateway.meter.journal import JournalEntry
from policies.usage.records import RecordVersion

# PostgreSQL, appendix A: data exceptions and integrity constraint violations. The same lines would fail again.
DATA_ERROR_CLASSES = ("22", "23")

END_OF_COPY = b"\\.\n"  # PostgreSQL, COPY, "Text Format"

log = structlog.get_logger(__name__)


class PartitionEntry(NamedTuple):
    """An entry and the partition of its journal."""

    partition: int
    entry: JournalEntry


Entries = dict[int, list[JournalEntry]]  # by partition


@dataclass(frozen=True, slots=True)
class Written:
    """How many entries may leave the journal, how many rows are new, how many entries are newly quarantined."""

    entries: int = 0
    rows: int = 0
    quarantined: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.entries + other.entries, self.rows + other.rows, self.quarantined + other.quarantined)


async def write_all(connection: AsyncConnection, entries: Entries) -> Written:
    """Raises MalformedLines or DBAPIError if PostgreSQL refuses one of them."""
    return await _write_entries(connection, list(chain.from_iterable(entries.values())))


async def write_valid(connection: AsyncConnection, entries: Entries) -> Written:
    """Quarantines those that PostgreSQL refuses."""
    found = [PartitionEntry(partition, entry) for partition, page in entries.items() for entry in page]
    return await _bisect(connection, found)


async def _bisect(connection: AsyncConnection, found: Sequence[PartitionEntry]) -> Written:
    """Halves a batch that PostgreSQL refuses until the entry at fault is alone."""
    try:
        async with connection.begin_nested():
            return await _write_entries(connection, [entry for _, entry in found])
    except (MalformedLines, DBAPIError) as error:
        if not is_data_error(error):
            raise
        if len(found) == 1:
            return await _quarantine(connection, found[0], str(error))
    middle = len(found) // 2
    return await _bisect(connection, found[:middle]) + await _bisect(connection, found[middle:])


async def _write_entries(connection: AsyncConnection, entries: Sequence[JournalEntry]) -> Written:
    """A correction comes after the call that it corrects, which may be in the same batch."""
    settled = [entry for entry in entries if not entry.is_correction]
    corrections = [entry for entry in entries if entry.is_correction]
    rows = 0
    for version, lines in _lines_by_version(settled).items():
        rows += (await ingest(connection, lines, columns=version.columns)).rows
    for version, lines in _lines_by_version(corrections).items():
        await correct(connection, lines, columns=version.columns)
    return Written(entries=len(entries), rows=rows)


def _lines_by_version(entries: Iterable[JournalEntry]) -> dict[RecordVersion, list[bytes]]:
    """Raises MalformedLines for what is no record."""
    lines: dict[RecordVersion, list[bytes]] = {}
    for entry in entries:
        if entry.version is None:
            raise MalformedLines("the field of the entry names no record version")
        if entry.line == END_OF_COPY:  # COPY would stop there, and lose the lines behind it without an error
            raise MalformedLines("an entry is the end marker of COPY")
        lines.setdefault(entry.version, []).append(entry.line)
    return lines


async def _quarantine(connection: AsyncConnection, refused: PartitionEntry, reason: str) -> Written:
    """The log has the place and the reason. The entry may hold what logs must not, so only its table has it."""
    partition, entry = refused
    reason = f"as a correction: {reason}" if entry.is_correction else reason
    is_new = await poison.quarantine(connection, partition=partition, entry_id=entry.id, line=entry.line, reason=reason)
    log.error("usage_entry_refused", partition=partition, id=entry.id, reason=reason)
    return Written(entries=1, quarantined=int(is_new))


def is_data_error(error: MalformedLines | DBAPIError) -> bool:
    if isinstance(error, MalformedLines):
        return True
    return str(getattr(error.orig, "sqlstate", "")).startswith(DATA_ERROR_CLASSES)
