"""Renews and ends subscriptions on time: periods, trials, grace, and abandoned checkouts.

Usage that is still in the journal came before, so periods end only up to the time that PostgreSQL has the usage of.
Otherwise credits used in a period would expire with it and be charged to the next period once more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import advance_notices, renewals
from gateway.meter.journal import Journal
from gateway.workers.quarantine import FAILURES, Quarantine

# Subscriptions per query; each has a transaction of its own.
BATCH_ACCOUNTS = 200


class RenewalWorker:
    """Any number may run: each skips accounts that another one has locked.

    `grace` is how long a past-due subscription has access. After downtime it applies all missed events. While Redis is
    away it changes nothing, since the journal is unknown. The time is that of PostgreSQL, unless `now` is given.
    """

    idle_seconds = 5.0

    def __init__(
        self, database: Database, journal: Journal, *, grace: timedelta, now: Callable[[], datetime] | None = None
    ) -> None:
        self._database = database
        self._journal = journal
        self._grace = grace
        self._now = now
        self._quarantine = Quarantine("subscriptions", now or clock.now)

    async def run_once(self) -> int:
        """Advances one batch of due subscriptions; gives how many events. Raises MeterUnavailable."""
        asked_at = await self._database.now() if self._now is None else self._now()
        quarantined = self._quarantine.quarantined()
        now = (await self._journal.backlog()).written_until(asked_at)
        async with self._database.read() as connection:
            due = await renewals.find_due(
                connection, now=now, grace=self._grace, limit=BATCH_ACCOUNTS, exclude=quarantined
            )
        moved = 0
        for each in due:
            try:
                moved += await self._advance(each, now)
            except FAILURES as error:
                self._quarantine.record_failure(each.subscription_id, error)
            else:
                self._quarantine.record_success(each.subscription_id)
        return moved

    async def _advance(self, due: renewals.DueSubscription, now: datetime) -> int:
        async with self._database.transaction() as connection:
            if not await renewals.try_lock(connection, due.user_id):
                return 0
            return await renewals.advance(connection, due.subscription_id, now=now, grace=self._grace)


class AdvanceNoticeWorker:
    """Tells customers beforehand that a trial or their access ends, and that a year's subscription renews.

    Several may run: each end is announced once. The time is that of PostgreSQL, unless `now` is given.

    `grace` is how long a past-due subscription has access.
    """

    idle_seconds = 600.0

    def __init__(self, database: Database, *, grace: timedelta, now: Callable[[], datetime] | None = None) -> None:
        self._database = database
        self._grace = grace
        self._now = now

    async def run_once(self) -> int:
        """Announces a batch of each; gives how many."""
        now = await self._database.now() if self._now is None else self._now()
        async with self._database.transaction() as connection:
            told = await advance_notices.announce_trials(connection, now=now, limit=BATCH_ACCOUNTS)
            told += await advance_notices.announce_renewals(connection, now=now, limit=BATCH_ACCOUNTS)
            told += await advance_notices.announce_ends(connection, now=now, grace=self._grace, limit=BATCH_ACCOUNTS)
        return told
