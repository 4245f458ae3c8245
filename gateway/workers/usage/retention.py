"""Creates month partitions ahead of time, and drops those that are older than the retention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from gateway import clock
from gateway.ledger.audit import audit_log
from gateway.ledger.db import month_partitions
from gateway.ledger.db.session import Database
from gateway.meter.journal import Journal

ACTOR = "worker:retention"

# A journal entry is dated at the end of its call. Longer than any call, and than clocks differ.
MARGIN = timedelta(days=1)

log = structlog.get_logger(__name__)


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
    """Drops months before the last `keep_months`.

    A month stays while the journal has an entry of it: the entry's row prevents a second charge.
    """

    idle_seconds = 3600.0

    def __init__(
        self, database: Database, journal: Journal, *, keep_months: int, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._database = database
        self._journal = journal
        self._keep_months = keep_months
        self._now = now

    async def run_once(self) -> int:
        """Gives how many partitions it dropped."""
        now = self._now()
        kept_from = month_partitions.month_before(now, self._keep_months)
        backlog = await self._journal.backlog()
        if backlog.entries and now - timedelta(seconds=backlog.oldest_seconds) < kept_from + MARGIN:
            log.error("usage_not_dropped", reason="the journal holds entries as old", oldest_s=backlog.oldest_seconds)
            return 0
        async with self._database.transaction() as connection:
            dropped = await month_partitions.drop_before(connection, kept_from)
            for partition in dropped:
                kept = {"keep_months": self._keep_months}
                await audit_log.append(
                    connection,
                    actor=ACTOR,
                    action="usage.drop",
                    entity="partition",
                    entity_id=partition.name,
                    after=kept,
                )
        return len(dropped)
