"""Moves the journal into PostgreSQL, each entry exactly once, whatever dies when.

One transaction claims partitions, writes their rows, charges their accounts and moves their offsets; only then is the
journal trimmed. A crash before the commit leaves nothing; one after it leaves entries that are read again, and a record
that is there already has no effect. So everything is read from the start of a stream, never past the offset: entries
are found even in a journal whose ids begin anew, because Redis was replaced by one whose clock is behind. The offset is
for those who compare the two stores (`reconcile`, the loading of cold accounts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.ledger import offsets
from gateway.ledger.session import Database
from gateway.ledger.usage import MalformedLines, ingest
from gateway.meter.journal import START, Batch, Entry, Journal

BATCH_ENTRIES = 5_000

# PostgreSQL, appendix A: data exceptions and integrity constraint violations. The same lines would fail again.
DATA_ERROR_CLASSES = ("22", "23")

END_OF_COPY = b"\\.\n"  # PostgreSQL, COPY, "Text Format"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Poison:
    """An entry that PostgreSQL cannot take, and why."""

    entry: Entry
    reason: str


class UsageWriter:
    """Any number of writers may run; each partition is written by one at a time.

    `on_poison` is told of entries that PostgreSQL refuses. They are dropped, and nothing else is.
    """

    idle_seconds = 0.2

    def __init__(
        self, database: Database, journal: Journal, *, on_poison: Callable[[Poison], None] | None = None
    ) -> None:
        self._database = database
        self._journal = journal
        self._on_poison = on_poison or log_poison

    async def run_once(self) -> int:
        """Writes what waits, up to a batch; gives how many entries have left the journal."""
        waiting = await self._journal.lengths()
        metrics.JOURNAL_ENTRIES.set(sum(waiting.values()))
        if not waiting:
            metrics.JOURNAL_LAG.set(0)
            return 0
        batches, rows = await self._write(waiting)
        await self._journal.trim(_last_ids(batches))
        metrics.USAGE_ROWS.inc(rows)
        metrics.JOURNAL_LAG.set((await self._journal.backlog()).oldest_seconds)
        return sum(len(batch.entries) for batch in batches.values())

    async def _write(self, waiting: dict[int, int]) -> tuple[dict[int, Batch], int]:
        # The claim must be held while the journal is read, else two writers would take turns with one batch.
        async with self._database.transaction() as connection:
            claimed = await offsets.claim(connection, waiting)
            batches = await self._journal.read(dict.fromkeys(claimed, START), BATCH_ENTRIES)
            if not batches:
                return {}, 0
            entries = list(chain.from_iterable(batch.entries for batch in batches.values()))
            rows = await self._ingest(connection, entries)
            await offsets.advance(connection, _last_ids(batches))
        return batches, rows

    async def _ingest(self, connection: AsyncConnection, entries: Sequence[Entry]) -> int:
        """Rows written. A batch that PostgreSQL refuses is halved until the entry at fault stands alone."""
        try:
            _check_not_end_of_copy(entries)
            async with connection.begin_nested():
                return (await ingest(connection, [entry.line for entry in entries])).rows
        except (MalformedLines, DBAPIError) as error:
            if not _is_data_error(error):
                raise
            if len(entries) == 1:
                self._on_poison(Poison(entries[0], str(error)))
                return 0
        middle = len(entries) // 2
        return await self._ingest(connection, entries[:middle]) + await self._ingest(connection, entries[middle:])


def log_poison(poison: Poison) -> None:
    """The whole entry goes to the log, since it goes nowhere else."""
    log.error("usage_entry_refused", id=poison.entry.id, line=repr(poison.entry.line), reason=poison.reason)


def _check_not_end_of_copy(entries: Sequence[Entry]) -> None:
    """COPY would stop at such a line without a word, and the lines after it would be lost."""
    if any(entry.line == END_OF_COPY for entry in entries):
        raise MalformedLines("the entry is the end marker of COPY")


def _is_data_error(error: MalformedLines | DBAPIError) -> bool:
    if isinstance(error, MalformedLines):
        return True
    return str(getattr(error.orig, "sqlstate", "")).startswith(DATA_ERROR_CLASSES)


def _last_ids(batches: dict[int, Batch]) -> dict[int, str]:
    return {partition: batch.last_id for partition, batch in batches.items()}
