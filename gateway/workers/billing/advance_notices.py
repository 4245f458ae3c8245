"""Tells customers beforehand that a trial or their access ends, and that a year's subscription renews."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import advance_notices

BATCH = 200


class AdvanceNoticeWorker:
    """Several may run: each end is announced once. The time is that of PostgreSQL, unless `now` is given.

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
            told = await advance_notices.announce_trials(connection, now=now, limit=BATCH)
            told += await advance_notices.announce_renewals(connection, now=now, limit=BATCH)
            told += await advance_notices.announce_ends(connection, now=now, grace=self._grace, limit=BATCH)
        return told
