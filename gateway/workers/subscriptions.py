"""Moves subscriptions on time: periods and trials that end, graces that are over, checkouts that nobody completed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway import clock
from gateway.ledger import turning
from gateway.ledger.session import Database

# What is found at once. Each account is a transaction of its own, so a batch holds nobody up.
BATCH_ACCOUNTS = 200


class SubscriptionMover:
    """Any number may run: an account that one of them has in hand is left to it.

    `grace` is how long a past-due subscription has access. After downtime it makes up for what was missed.
    """

    idle_seconds = 5.0

    def __init__(self, database: Database, *, grace: timedelta, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._grace = grace
        self._now = now

    async def run_once(self) -> int:
        """Moves what is due, up to a batch; gives how many events that were."""
        now = self._now()
        async with self._database.read() as connection:
            due = await turning.find_due(connection, now=now, grace=self._grace, limit=BATCH_ACCOUNTS)
        moved = 0
        for each in due:
            async with self._database.transaction() as connection:
                if await turning.try_lock(connection, each.user_id):
                    moved += await turning.turn(connection, each.subscription_id, now=now, grace=self._grace)
        return moved
