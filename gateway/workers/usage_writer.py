"""Moves the journal into PostgreSQL, each entry exactly once, whatever dies when.

One transaction claims partitions, writes their rows, charges their accounts and moves their offsets; only then is the
journal trimmed. A crash before the commit leaves nothing; one after it leaves entries that are read again, and a record
that is there already has no effect. So everything is read from the start of a stream, never past the offset: entries
are found even in a journal whose ids begin anew, because Redis was replaced by one whose clock is behind. The offset is
for whoever compares the two stores (`reconcile`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.ledger import offsets, poison
from gateway.ledger.session import Database
from gateway.ledger.usage import MalformedLines, correct, ingest
from gateway.meter.journal import START, Batch, Entry, Journal

BATCH_ENTRIES = 5_000

# PostgreSQL, appendix A: data exceptions and integrity constraint violations. The same lines would fail again.
DATA_ERROR_CLASSES = ("22", "23")

END_OF_COPY = b"\\.\n"  # PostgreSQL, COPY, "Text Format"

log = structlog.get_logger(__name__)


class Waiting(NamedTuple):
    """An entry and the partition in whose journal it stands."""

    partition: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Written:
    """What became of entries: rows that are new, entries that are refused for the first time."""

    rows: int = 0
    refused: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.rows + other.rows, self.refused + other.refused)


class UsageWriter:
    """Any number of writers may run; each partition is written by one at a time.

    Entries that PostgreSQL refuses are kept in `journal_poison` instead. They charge nobody.
    """

    idle_seconds = 0.2

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal

    async def run_once(self) -> int:
        """Writes what waits, up to a batch; gives how many entries have left the journal."""
        waiting = await self._journal.lengths()
        metrics.JOURNAL_ENTRIES.set(sum(waiting.values()))
        if not waiting:
            metrics.JOURNAL_LAG.set(0)
            return 0
        batches, written = await self._write(waiting)
        await self._journal.trim(_last_ids(batches))
        metrics.USAGE_ROWS.inc(written.rows)
        metrics.JOURNAL_POISON.inc(written.refused)
        metrics.JOURNAL_LAG.set((await self._journal.backlog()).oldest_seconds)
        return sum(len(batch.entries) for batch in batches.values())

    async def _write(self, waiting: dict[int, int]) -> tuple[dict[int, Batch], Written]:
        # The claim must be held while the journal is read, else two writers would take turns with one batch.
        async with self._database.transaction() as connection:
            claimed = await offsets.claim(connection, waiting)
            batches = await self._journal.read(dict.fromkeys(claimed, START), BATCH_ENTRIES)
            if not batches:
                return {}, Written()
            read = [Waiting(partition, entry) for partition, batch in batches.items() for entry in batch.entries]
            written = await _ingest(connection, read)
            await offsets.advance(connection, _last_ids(batches))
        return batches, written


async def _ingest(connection: AsyncConnection, waiting: Sequence[Waiting]) -> Written:
    """A batch that PostgreSQL refuses is halved until the entry at fault stands alone."""
    try:
        _check_not_end_of_copy(entry for _, entry in waiting)
        async with connection.begin_nested():
            return Written(rows=await _take(connection, [entry for _, entry in waiting]))
    except (MalformedLines, DBAPIError) as error:
        if not _is_data_error(error):
            raise
        if len(waiting) == 1:
            return await _keep(connection, waiting[0], str(error))
    middle = len(waiting) // 2
    return await _ingest(connection, waiting[:middle]) + await _ingest(connection, waiting[middle:])


async def _take(connection: AsyncConnection, entries: Sequence[Entry]) -> int:
    """How many rows are new. A correction may stand in one batch with what it corrects, so it is taken after that."""
    rows = (await ingest(connection, [entry.line for entry in entries if not entry.is_correction])).rows
    if corrections := [entry.line for entry in entries if entry.is_correction]:
        await correct(connection, corrections)
    return rows


async def _keep(connection: AsyncConnection, refused: Waiting, reason: str) -> Written:
    """The log has the place and the reason; the entry itself, which may hold what logs must not, has its table."""
    partition, entry = refused
    reason = f"as a correction: {reason}" if entry.is_correction else reason
    is_new = await poison.keep(connection, partition=partition, entry_id=entry.id, line=entry.line, reason=reason)
    log.error("usage_entry_refused", partition=partition, id=entry.id, reason=reason)
    return Written(refused=int(is_new))


def _check_not_end_of_copy(entries: Iterable[Entry]) -> None:
    """COPY would stop at such a line without a word, and the lines after it would be lost."""
    if any(entry.line == END_OF_COPY for entry in entries):
        raise MalformedLines("the entry is the end marker of COPY")


def _is_data_error(error: MalformedLines | DBAPIError) -> bool:
    if isinstance(error, MalformedLines):
        return True
    return str(getattr(error.orig, "sqlstate", "")).startswith(DATA_ERROR_CLASSES)


def _last_ids(batches: dict[int, Batch]) -> dict[int, str]:
    return {partition: batch.last_id for partition, batch in batches.items()}
