"""Moves the journal into PostgreSQL, each entry exactly once, whatever dies when.

One transaction claims partitions, writes their rows, charges their accounts and moves their offsets; only then is the
journal trimmed. A crash before the commit leaves nothing; one after it leaves entries that are read again, and a record
that is there already has no effect. So everything is read from the start of a stream, never past the offset: entries
are found even in a journal whose ids begin anew, because Redis was replaced by one whose clock is behind. The offset is
for whoever compares the two stores (`reconcile`).

Batches are large, for a transaction costs the same for one row as for hundreds: what comes within `GATHER_SECONDS` goes
together, and a backlog by the 20,000. Where PostgreSQL is slow they get smaller, and where it is away nothing is read:
what waits, waits in Redis.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.usage import journal_offsets, poison
from gateway.ledger.usage.ingestion import MalformedLines, correct, ingest
from gateway.meter.journal import START, Journal, JournalEntry

# A row of 20,000 costs PostgreSQL half of what one of 5,000 does, since they charge an account once: 20 and 40 µs with
# 1,000 accounts (`benchmarks/usage_writer.py`). Some 10 MB of memory; where records are long, the bytes bound it.
BATCH_ENTRIES = 20_000
BATCH_BYTES = 16 << 20
MIN_BATCH_ENTRIES = 500
SLOW_SECONDS = 2.0  # of a transaction; a fifth of what a statement may take

# Redis serves nobody else while it answers one of these.
ENTRIES_PER_READ = 2_000

# How many transactions of one process may run at once while there is more than one batch.
LANES = 2

# How long entries gather, by how many came last: who calls now and then sees the row at once.
GATHER_SECONDS = 1.0
GATHER_FEW_SECONDS = 0.2
FEW_ENTRIES = 200

# PostgreSQL, appendix A: data exceptions and integrity constraint violations. The same lines would fail again.
DATA_ERROR_CLASSES = ("22", "23")

END_OF_COPY = b"\\.\n"  # PostgreSQL, COPY, "Text Format"

log = structlog.get_logger(__name__)


class Waiting(NamedTuple):
    """An entry and the partition in whose journal it stands."""

    partition: int
    entry: JournalEntry


Entries = dict[int, list[JournalEntry]]  # by partition; no list is empty


@dataclass(frozen=True, slots=True)
class Written:
    """What became of entries: how many may leave the journal, are new rows, are refused for the first time."""

    entries: int = 0
    rows: int = 0
    refused: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.entries + other.entries, self.rows + other.rows, self.refused + other.refused)


Take = Callable[[AsyncConnection, Entries], Awaitable[Written]]


class Pace:
    """How many entries a batch may have: fewer where PostgreSQL is slow or refuses some, else twice as many."""

    def __init__(self) -> None:
        self.entries = BATCH_ENTRIES

    def took(self, seconds: float) -> None:
        self.entries = min(self.entries * 2, BATCH_ENTRIES) if seconds < SLOW_SECONDS else self._half()

    def slow_down(self) -> None:
        self.entries = self._half()

    def begin_anew(self) -> None:
        self.entries = MIN_BATCH_ENTRIES

    def _half(self) -> int:
        return max(self.entries // 2, MIN_BATCH_ENTRIES)


class UsageWriter:
    """Any number of writers may run, in any number of processes; each partition is written by one at a time.

    Entries that PostgreSQL refuses are kept in `journal_poison` instead. They charge nobody. `left` is how many of the
    entries that the last run found it did not write.
    """

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal
        self._pace = Pace()
        self.left = 0

    async def run_once(self) -> int:
        """Writes what waits, up to a batch for each lane; gives how many entries have left the journal."""
        waiting = await self._journal.lengths()
        await self._show(waiting)
        if not waiting:
            return 0
        batches = -(-sum(waiting.values()) // self._pace.entries)
        lanes = [self._write(waiting) for _ in range(min(LANES, batches))]
        results = await asyncio.gather(*lanes, return_exceptions=True)  # one that fails leaves the other its work
        written = Written()
        for result in results:
            if isinstance(result, BaseException):
                raise result
            written += result
        self.left = sum(waiting.values()) - written.entries
        return written.entries

    async def _show(self, waiting: Mapping[int, int]) -> None:
        metrics.JOURNAL_ENTRIES.set(sum(waiting.values()))
        metrics.JOURNAL_LAG.set((await self._journal.backlog()).oldest_seconds if waiting else 0)

    async def _write(self, waiting: Mapping[int, int]) -> Written:
        """One transaction; a second one of few entries where PostgreSQL refuses some, to find them."""
        began = monotonic_seconds()
        try:
            written = await self._transact(waiting, _take)
        except DatabaseUnavailable:
            self._pace.slow_down()
            raise
        except (MalformedLines, DBAPIError) as error:
            if not _is_data_error(error):
                raise
            self._pace.begin_anew()
            written = await self._transact(waiting, _sift)
        self._pace.took(monotonic_seconds() - began)
        return written

    async def _transact(self, waiting: Mapping[int, int], take: Take) -> Written:
        # The claim must be held while the journal is read, else two writers would take turns with one batch.
        async with self._database.transaction() as connection:
            limit = _partitions_for(self._pace.entries, waiting.values())
            claimed = await journal_offsets.claim(connection, waiting, limit=limit)
            entries = await self._read({partition: waiting[partition] for partition in claimed}, self._pace.entries)
            if not entries:
                return Written()
            written = await take(connection, entries)
            last_ids = {partition: found[-1].id for partition, found in entries.items()}
            await journal_offsets.advance(connection, last_ids)
        await self._journal.trim(last_ids)
        metrics.USAGE_ROWS.inc(written.rows)
        metrics.JOURNAL_POISON.inc(written.refused)
        return written

    async def _read(self, waiting: Mapping[int, int], limit: int) -> Entries:
        """A batch: from each partition in turn what stood there when we looked, until there is enough."""
        entries: Entries = {}
        count, size, after = 0, 0, dict.fromkeys(waiting, START)
        while after and count < limit and size < BATCH_BYTES:
            batches = await self._journal.read(after, min(limit - count, ENTRIES_PER_READ))
            for partition, batch in batches.items():
                entries.setdefault(partition, []).extend(batch.entries)
                count += len(batch.entries)
                size += sum([len(entry.line) for entry in batch.entries])
            after = {
                partition: batch.last_id
                for partition, batch in batches.items()
                if len(entries[partition]) < waiting[partition]
            }
        return entries


class GatheringWriter:
    """Lets entries gather between two runs, unless more wait than one run writes."""

    def __init__(self, writer: UsageWriter) -> None:
        self._writer = writer
        self.idle_seconds = GATHER_FEW_SECONDS

    async def run_once(self) -> int:
        """One run of the writer; 0 where nothing was left, or nothing could be had."""
        written = await self._writer.run_once()
        self.idle_seconds = GATHER_FEW_SECONDS if written < FEW_ENTRIES else GATHER_SECONDS
        return written if self._writer.left else 0


def _partitions_for(entries: int, lengths: Iterable[int]) -> int:
    """How many partitions surely hold so many entries, whichever they are; the others are left to other writers."""
    upto = list(accumulate(sorted(lengths)))
    return min(bisect_left(upto, entries) + 1, len(upto))


async def _take(connection: AsyncConnection, entries: Entries) -> Written:
    """All of them, or none if PostgreSQL refuses one."""
    return await _take_all(connection, list(chain.from_iterable(entries.values())))


async def _sift(connection: AsyncConnection, entries: Entries) -> Written:
    """All but those that PostgreSQL refuses, which are kept aside."""
    return await _halve(connection, [Waiting(number, entry) for number, found in entries.items() for entry in found])


async def _halve(connection: AsyncConnection, waiting: Sequence[Waiting]) -> Written:
    """A batch that PostgreSQL refuses is halved until the entry at fault stands alone."""
    try:
        async with connection.begin_nested():
            return await _take_all(connection, [entry for _, entry in waiting])
    except (MalformedLines, DBAPIError) as error:
        if not _is_data_error(error):
            raise
        if len(waiting) == 1:
            return await _keep(connection, waiting[0], str(error))
    middle = len(waiting) // 2
    return await _halve(connection, waiting[:middle]) + await _halve(connection, waiting[middle:])


async def _take_all(connection: AsyncConnection, entries: Sequence[JournalEntry]) -> Written:
    """A correction may stand in one batch with what it corrects, so it is taken after that."""
    lines = [entry.line for entry in entries if not entry.is_correction]
    corrections = [entry.line for entry in entries if entry.is_correction]
    if END_OF_COPY in lines or END_OF_COPY in corrections:
        # COPY would stop there without a word, and the lines after it would be lost.
        raise MalformedLines("an entry is the end marker of COPY")
    rows = (await ingest(connection, lines)).rows
    if corrections:
        await correct(connection, corrections)
    return Written(entries=len(entries), rows=rows)


async def _keep(connection: AsyncConnection, refused: Waiting, reason: str) -> Written:
    """The log has the place and the reason; the entry itself, which may hold what logs must not, has its table."""
    partition, entry = refused
    reason = f"as a correction: {reason}" if entry.is_correction else reason
    is_new = await poison.keep(connection, partition=partition, entry_id=entry.id, line=entry.line, reason=reason)
    log.error("usage_entry_refused", partition=partition, id=entry.id, reason=reason)
    return Written(entries=1, refused=int(is_new))


def _is_data_error(error: MalformedLines | DBAPIError) -> bool:
    if isinstance(error, MalformedLines):
        return True
    return str(getattr(error.orig, "sqlstate", "")).startswith(DATA_ERROR_CLASSES)
