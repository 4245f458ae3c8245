"""Begins scheduled grants at their time, and ends what has expired.

What the journal still holds was used before, so time goes on for credits only as far as PostgreSQL has the usage: a
credit is used or expires, never both.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from gateway import clock
from gateway.ledger.credits import expiry
from gateway.ledger.db.session import Database
from gateway.meter.journal import Journal
from gateway.workers.quarantine import FAILURES, Parking

# What is found at once. Each account is a transaction of its own, so a batch holds nobody up.
BATCH_ACCOUNTS = 200


class CreditKeeper:
    """Any number may run: an account that one of them has in hand is left to it. Late by downtime, it catches up.

    While Redis is away nothing is begun or ended, for nobody knows what it holds.
    """

    idle_seconds = 5.0

    def __init__(self, database: Database, journal: Journal, *, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._journal = journal
        self._now = now
        self._parking = Parking("credits", now)

    async def run_once(self) -> int:
        """Begins and ends what is due, up to a batch of accounts; gives how many movements that were.

        Raises MeterUnavailable.
        """
        asked, parked = self._now(), self._parking.parked()
        now = (await self._journal.backlog()).written_until(asked)
        async with self._database.read() as connection:
            due = await expiry.due_accounts(connection, now=now, limit=BATCH_ACCOUNTS, but=parked)
        moved = 0
        for user_id in due:
            try:
                moved += await self._settle(user_id, now)
            except FAILURES as error:
                self._parking.failed(user_id, error)
            else:
                self._parking.passed(user_id)
        return moved

    async def _settle(self, user_id: UUID, now: datetime) -> int:
        async with self._database.transaction() as connection:
            return (
                await expiry.settle(connection, user_id, now=now) if await expiry.try_lock(connection, user_id) else 0
            )
