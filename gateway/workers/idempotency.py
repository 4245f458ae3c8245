"""Forgets the answers of the admin API that were kept for repeated requests, a day after they were given."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway import clock
from gateway.ledger.db import idempotency
from gateway.ledger.db.session import Database

KEPT = timedelta(hours=24)
ROWS_PER_RUN = 1000


class IdempotencyCleaner:
    """A bounded number at a time, so that nobody waits for it."""

    idle_seconds = 600.0

    def __init__(self, database: Database, *, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._now = now

    async def run_once(self) -> int:
        """Gives how many were forgotten."""
        async with self._database.transaction() as connection:
            return await idempotency.clean(connection, self._now() - KEPT, limit=ROWS_PER_RUN)
