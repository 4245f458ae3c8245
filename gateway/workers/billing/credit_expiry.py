"""Starts scheduled grants on time and expires grants.

Usage that is still in the journal came before, so grants expire only up to the time that PostgreSQL has the usage of:
a credit is used or expires, never both.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from gateway import clock
from gateway.ledger.credits import expiry
from gateway.ledger.db.session import Database
from gateway.meter.journal import Journal
from gateway.workers.quarantine import FAILURES, Quarantine

# Accounts per query; each account has a transaction of its own.
BATCH_ACCOUNTS = 200


class CreditExpiryWorker:
    """Any number may run: each skips accounts that another one has locked. After downtime it catches up.

    `grace` is how long credits wait for the next period of a subscription that a provider bills. While Redis is away it
    changes nothing, since the journal is unknown. The time is that of PostgreSQL, unless `now` is given.
    """

    idle_seconds = 5.0

    def __init__(
        self, database: Database, journal: Journal, *, grace: timedelta, now: Callable[[], datetime] | None = None
    ) -> None:
        self._database = database
        self._journal = journal
        self._grace = grace
        self._now = now
        self._quarantine = Quarantine("credits", now or clock.now)

    async def run_once(self) -> int:
        """Applies what is due to one batch of accounts; gives how many movements. Raises MeterUnavailable."""
        asked_at = await self._database.now() if self._now is None else self._now()
        quarantined = self._quarantine.quarantined()
        now = (await self._journal.backlog()).written_until(asked_at)
        async with self._database.read() as connection:
            due = await expiry.list_due_accounts(
                connection, now=now, grace=self._grace, limit=BATCH_ACCOUNTS, exclude=quarantined
            )
        moved = 0
        for user_id in due:
            try:
                moved += await self._apply_due(user_id, now)
            except FAILURES as error:
                self._quarantine.record_failure(user_id, error)
            else:
                self._quarantine.record_success(user_id)
        return moved

    async def _apply_due(self, user_id: UUID, now: datetime) -> int:
        async with self._database.transaction() as connection:
            if not await expiry.try_lock(connection, user_id):
                return 0
            return await expiry.apply_due(connection, user_id, now=now, grace=self._grace)
