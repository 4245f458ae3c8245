"""Closes months: their reports are stored as they are, and never change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from gateway.ledger.db.session import Database
from gateway.ledger.reports import months
from gateway.meter.journal import Journal
from policies.billing.money import CreditValue

# For what is on its way: counters of refusals, events of payment providers, settlements of calls that the sweeper took.
CLOSES_AFTER = timedelta(days=1)

log = structlog.get_logger(__name__)


class MonthCloser:
    """Any number may run. A month is closed a day after its end, once PostgreSQL has its usage; those before it first.

    While Redis is away it closes none. The time is that of PostgreSQL, unless `now` is given.
    """

    idle_seconds = 600.0

    def __init__(
        self,
        database: Database,
        journal: Journal,
        *,
        value: CreditValue | None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = database
        self._journal = journal
        self._value = value
        self._now = now

    async def run_once(self) -> int:
        """Closes the first month that is due; gives how many it closed. Raises MeterUnavailable."""
        asked_at = await self._database.now() if self._now is None else self._now()
        written_until = (await self._journal.backlog()).written_until(asked_at)
        async with self._database.transaction() as connection:
            month = await months.next_to_close(connection, ended_by=written_until - CLOSES_AFTER)
            if month is None or not await months.close(connection, month, value=self._value):
                return 0
        log.info("month_closed", month=f"{month:%Y-%m}")
        return 1
