"""Moves the journal into PostgreSQL, each entry exactly once, whatever process dies at whatever moment.

One transaction claims partitions, writes their rows, charges their accounts and moves their offsets; then the journal
is trimmed. A crash before the commit leaves nothing. A crash after it leaves entries that are read again, and a record
whose row is there already has no effect. So a writer reads every stream from its start, never from the offset: it finds
all entries even in a journal whose ids are lower, because another Redis took over whose clock is behind. The offset is
for those who compare the two stores (`reconcile`).

Batches are large, since a transaction costs the same for one row as for hundreds: entries gather for
GATHER_SECONDS, and a backlog is written by the 20,000. Batches shrink while PostgreSQL is slow. While it is away
nothing is read, and the entries wait in Redis.

An entry of a newer release stops its partition: what precedes it is written, the entry and all behind it wait for a
writer of that release, and log and metric name it (docs/decisions/0019).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, takewhile

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.usage import journal_offsets
from gateway.ledger.usage.ingestion import MalformedLines
from gateway.meter.journal import START, Journal, JournalEntry
from gateway.meter.publications import PostgresqlBehind
from gateway.workers.usage.entry_writing import Entries, Written, is_data_error, write_all, write_valid
from policies.usage.account_load import id_order

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

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction writes. `newer` are the entries of a newer release that stop their partitions."""

    entries: Entries
    newer: Mapping[int, JournalEntry]


WriteEntries = Callable[[AsyncConnection, Entries], Awaitable[Written]]


class BatchSize:
    """How many entries a batch may have: half as many while PostgreSQL is slow or refuses some, else twice as many."""

    def __init__(self) -> None:
        self.entries = BATCH_ENTRIES

    def adapt(self, seconds: float) -> None:
        self.entries = min(self.entries * 2, BATCH_ENTRIES) if seconds < SLOW_SECONDS else self._half()

    def halve(self) -> None:
        self.entries = self._half()

    def reset(self) -> None:
        self.entries = MIN_BATCH_ENTRIES

    def _half(self) -> int:
        return max(self.entries // 2, MIN_BATCH_ENTRIES)


class UsageWriter:
    """Any number of writers may run, in any number of processes; one at a time writes a partition.

    Entries that PostgreSQL refuses go to `journal_poison` and charge nobody. `remaining` is how many entries the
    last run found and did not write.
    """

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal
        self._batch_size = BatchSize()
        self._newer: dict[int, str] = {}  # partitions that wait for a newer release, and their entry
        self.remaining = 0

    async def run_once(self) -> int:
        """Writes up to one batch for each lane; gives how many entries have left the journal."""
        lengths = await self._journal.lengths()
        await self._update_metrics(lengths)
        if not lengths:
            return 0
        batches = -(-sum(lengths.values()) // self._batch_size.entries)
        lanes = [self._write(lengths) for _ in range(min(LANES, batches))]
        results = await asyncio.gather(*lanes, return_exceptions=True)  # a lane that fails does not stop the other
        written = Written()
        for result in results:
            if isinstance(result, BaseException):
                raise result
            written += result
        self.remaining = sum(lengths.values()) - written.entries
        return written.entries

    async def _update_metrics(self, lengths: Mapping[int, int]) -> None:
        self._newer = {partition: entry_id for partition, entry_id in self._newer.items() if partition in lengths}
        metrics.JOURNAL_NEWER_PARTITIONS.set(len(self._newer))
        metrics.JOURNAL_ENTRIES.set(sum(lengths.values()))
        metrics.JOURNAL_LAG.set(await self._journal.oldest_seconds(lengths) if lengths else 0)

    async def _write(self, lengths: Mapping[int, int]) -> Written:
        """Writes in one transaction; in a second one of few entries if PostgreSQL refuses some, to find them."""
        began = monotonic_seconds()
        try:
            written = await self._transact(lengths, write_all)
        except DatabaseUnavailable:
            self._batch_size.halve()
            raise
        except (MalformedLines, DBAPIError) as error:
            if not is_data_error(error):
                raise
            self._batch_size.reset()
            written = await self._transact(lengths, write_valid)
        self._batch_size.adapt(monotonic_seconds() - began)
        return written

    async def _transact(self, lengths: Mapping[int, int], write: WriteEntries) -> Written:
        # The claim must precede the reading, else two writers would write the same batch one after the other.
        async with self._database.transaction() as connection:
            limit = _partitions_for(self._batch_size.entries, lengths.values())
            claimed = await journal_offsets.claim(connection, lengths, limit=limit)
            await self._check_history(claimed)
            batch = await self._read({partition: lengths[partition] for partition in claimed})
            written = await write(connection, batch.entries) if batch.entries else Written()
            last_ids = {partition: entries[-1].id for partition, entries in batch.entries.items()}
            # A partition that cannot advance gives up its turn, so that it does not keep others from being claimed.
            stopped = {partition: claimed[partition] for partition in batch.newer.keys() - last_ids.keys()}
            await journal_offsets.advance(connection, last_ids | stopped)
        self._report_newer(claimed, batch)
        await self._journal.trim(last_ids)
        metrics.USAGE_ROWS.inc(written.rows)
        metrics.JOURNAL_POISON.inc(written.quarantined)
        return written

    async def _check_history(self, claimed: Mapping[int, str]) -> None:
        """Raises PostgresqlBehind if PostgreSQL lacks entries that were trimmed because it had them.

        It was restored or failed over. A new epoch is about to begin, and shows what is to be compared until then.
        """
        for partition, trimmed in (await self._journal.trimmed_upto(claimed)).items():
            if id_order(trimmed) > id_order(claimed[partition]):
                raise PostgresqlBehind(f"PostgreSQL has lost journal entries of partition {partition}")

    async def _read(self, lengths: Mapping[int, int]) -> Batch:
        """From each partition in turn what it had when we looked, until there is enough."""
        entries: Entries = {}
        newer: dict[int, JournalEntry] = {}
        limit, count, size, after = self._batch_size.entries, 0, 0, dict.fromkeys(lengths, START)
        while after and count < limit and size < BATCH_BYTES:
            pages = await self._journal.read(after, min(limit - count, ENTRIES_PER_READ))
            for partition, page in pages.items():
                readable = list(takewhile(lambda entry: not entry.is_of_newer_release, page.entries))
                if len(readable) < len(page.entries):
                    newer[partition] = page.entries[len(readable)]
                if readable:
                    entries.setdefault(partition, []).extend(readable)
                count += len(readable)
                size += sum([len(entry.line) for entry in readable])
            after = {
                partition: page.last_id
                for partition, page in pages.items()
                if partition not in newer and len(entries[partition]) < lengths[partition]
            }
        return Batch(entries, newer)

    def _report_newer(self, claimed: Iterable[int], batch: Batch) -> None:
        """Logs each entry of a newer release once."""
        for partition in claimed:
            entry = batch.newer.get(partition)
            if entry is None:
                self._newer.pop(partition, None)
            elif self._newer.get(partition) != entry.id:
                self._newer[partition] = entry.id
                log.error("journal_version_unknown", partition=partition, id=entry.id, version=entry.version)
        metrics.JOURNAL_NEWER_PARTITIONS.set(len(self._newer))


class GatheringWriter:
    """Lets entries gather between two runs, unless more wait than one run writes."""

    def __init__(self, writer: UsageWriter) -> None:
        self._writer = writer
        self.idle_seconds = GATHER_FEW_SECONDS

    async def run_once(self) -> int:
        """One run of the writer; 0 if nothing remains, or nothing could be written."""
        written = await self._writer.run_once()
        self.idle_seconds = GATHER_FEW_SECONDS if written < FEW_ENTRIES else GATHER_SECONDS
        return written if self._writer.remaining else 0


def _partitions_for(entries: int, lengths: Iterable[int]) -> int:
    """How many partitions hold so many entries, whichever they are; the others are left to other writers."""
    upto = list(accumulate(sorted(lengths)))
    return min(bisect_left(upto, entries) + 1, len(upto))
