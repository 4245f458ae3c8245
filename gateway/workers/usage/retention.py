"""Creates month partitions ahead of time, and drops those that are older than the retention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import clock, metrics
from gateway.ledger.accounts import erasure
from gateway.ledger.audit import audit_log
from gateway.ledger.db import month_partitions
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.db.session import Database
from gateway.ledger.usage import sink_hours
from gateway.meter.journal import Journal
from gateway.workers.usage.archive_folder import ArchiveFailed
from gateway.workers.usage.archives import Archive, Archives

ACTOR = "worker:retention"

# A journal entry is dated at the end of its call. Longer than any call, and than clocks differ.
MARGIN = timedelta(days=1)

log = structlog.get_logger(__name__)


class _SinkBehind(Exception):  # noqa: N818 - named for the condition
    """The sink lacks rows of a month that was to be dropped."""


class MonthPartitionWorker:
    """Creates the partitions of this month and the next ones.

    A late run is harmless: rows of a missing month go to the default partition and are moved later.
    """

    idle_seconds = 3600.0

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> int:
        """Gives how many partitions it created."""
        async with self._database.transaction() as connection:
            return len(await month_partitions.create_missing(connection, now=clock.now()))


class RetentionWorker:
    """Drops months before the last `keep_months`; with `archives` it exports each of them before.

    A month stays while the journal has an entry of it: the entry's row prevents a second charge. It stays, too, while
    it has no complete archive, and with `has_sink` while the sink lacks rows of it.
    """

    idle_seconds = 3600.0

    def __init__(
        self,
        database: Database,
        journal: Journal,
        *,
        keep_months: int,
        archives: Archives | None = None,
        has_sink: bool = False,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._database = database
        self._journal = journal
        self._keep_months = keep_months
        self._archives = archives
        self._has_sink = has_sink
        self._now = now

    async def run_once(self) -> int:
        """Gives how many partitions it dropped."""
        now = self._now()
        kept_from = month_partitions.month_before(now, self._keep_months)
        backlog = await self._journal.backlog()
        if backlog.entries and now - timedelta(seconds=backlog.oldest_seconds) < kept_from + MARGIN:
            log.error("usage_not_dropped", reason="the journal holds entries as old", oldest_s=backlog.oldest_seconds)
            return 0
        try:
            async with self._database.read() as connection:
                if await month_partitions.list_ended(connection, kept_from):
                    await self._check_sink(connection, kept_from)  # else a month may be archived in vain
            if self._archives is not None:
                return await self._archive_and_drop(self._archives, kept_from)
            return await self._drop(kept_from)
        except _SinkBehind:
            log.error("usage_not_dropped", reason="the sink lacks rows as old")
            return 0

    async def _check_sink(self, connection: AsyncConnection, kept_from: datetime) -> None:
        """Raises _SinkBehind. After a drop, which keeps writers out until its transaction ends, this is final."""
        if self._has_sink and await sink_hours.is_behind(connection, kept_from):
            raise _SinkBehind

    async def _drop(self, kept_from: datetime) -> int:
        async with self._database.transaction() as connection:
            ended = await month_partitions.list_ended(connection, kept_from)
            await month_partitions.drop(connection, ended)
            if ended:
                await self._check_sink(connection, kept_from)
            for partition in ended:
                await self._record(connection, partition, None)
        return len(ended)

    async def _archive_and_drop(self, archives: Archives, kept_from: datetime) -> int:
        """A failure is logged and counted, and tried again in an hour: an export may take minutes."""
        dropped = 0
        try:
            await archives.check()
            async with self._database.read() as connection:
                ended = await month_partitions.list_ended(connection, kept_from)
            for partition in ended:
                dropped += await self._archive_one(archives, partition)
        except ArchiveFailed as error:
            metrics.ARCHIVE_FAILURES.inc()
            log.error("usage_not_archived", reason=str(error))
        return dropped

    async def _archive_one(self, archives: Archives, partition: MonthPartition) -> int:
        """One transaction freezes the rows, exports and drops them, so what is dropped is what was exported."""
        async with self._database.transaction() as connection:
            if not await month_partitions.freeze(connection, partition):
                return 0
            archive = await archives.add(connection, partition)
            await month_partitions.drop(connection, [partition])
            await self._check_sink(connection, partition.ends)
            await self._record(connection, partition, archive)
        log.info("usage_archived", partition=partition.name, file=archive.file, rows=archive.rows)
        return 1

    async def _record(self, connection: AsyncConnection, partition: MonthPartition, archive: Archive | None) -> None:
        after: dict[str, object] = {"keep_months": self._keep_months}
        if archive is not None:
            after |= {"archive": archive.file, "rows": archive.rows, "sha256": archive.sha256}
        await audit_log.append(
            connection,
            actor=ACTOR,
            action=sink_hours.DROP_ACTION,
            entity="partition",
            entity_id=partition.name,
            after=after,
        )
        if self._has_sink and partition.table == "usage_tracking":
            await erasure.mark_dropped_usage(connection, partition.begins.date())
