"""Drops months of usage that are older than they are kept for: whole partitions, never row by row."""

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

# An entry is as old as the end of its call. More than a call takes, and than clocks differ by.
MARGIN = timedelta(days=1)

log = structlog.get_logger(__name__)


class Retention:
    """Keeps the current month and `keep_months` before it.

    While the journal holds an entry of a month, that month stays: its row is what keeps the entry from being charged
    again.
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
        """Drops what has ended before the months to keep; gives how many partitions that were."""
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
