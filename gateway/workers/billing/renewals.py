"""Moves subscriptions on time: periods and trials that end, graces that are over, checkouts that nobody completed.

What the journal still holds was used before, so periods end only as far as PostgreSQL has the usage: else what was used
of a period's credits would be lost with the rest of them, and be taken from the next period's once more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import renewals
from gateway.meter.journal import Journal
from gateway.workers.quarantine import FAILURES, Parking

# What is found at once. Each account is a transaction of its own, so a batch holds nobody up.
BATCH_ACCOUNTS = 200


class SubscriptionMover:
    """Any number may run: an account that one of them has in hand is left to it.

    `grace` is how long a past-due subscription has access. After downtime it makes up for what was missed. While Redis
    is away nothing is moved, for nobody knows what it holds.
    """

    idle_seconds = 5.0

    def __init__(
        self, database: Database, journal: Journal, *, grace: timedelta, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._database = database
        self._journal = journal
        self._grace = grace
        self._now = now
        self._parking = Parking("subscriptions", now)

    async def run_once(self) -> int:
        """Moves what is due, up to a batch; gives how many events that were. Raises MeterUnavailable."""
        asked, parked = self._now(), self._parking.parked()
        now = (await self._journal.backlog()).written_until(asked)
        async with self._database.read() as connection:
            due = await renewals.find_due(connection, now=now, grace=self._grace, limit=BATCH_ACCOUNTS, but=parked)
        moved = 0
        for each in due:
            try:
                moved += await self._move(each, now)
            except FAILURES as error:
                self._parking.failed(each.subscription_id, error)
            else:
                self._parking.passed(each.subscription_id)
        return moved

    async def _move(self, due: renewals.Due, now: datetime) -> int:
        async with self._database.transaction() as connection:
            if not await renewals.try_lock(connection, due.user_id):
                return 0
            return await renewals.turn(connection, due.subscription_id, now=now, grace=self._grace)
