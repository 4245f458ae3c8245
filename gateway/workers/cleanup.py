"""Deletes expired sessions, tokens, throttles, notifications and idempotent responses, in bounded batches.

A batch holds its locks only briefly. Both workers return how many rows they deleted or emptied.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway import clock
from gateway.ledger.accounts import erasure, login_sessions, one_time_tokens, persons, throttles
from gateway.ledger.db import idempotency, notifications
from gateway.ledger.db.session import Database

BATCH_ROWS = 1000
RESPONSE_LIFETIME = timedelta(hours=24)


class CleanupWorker:
    """Deletes what accounts no longer need, and empties records of deleted users of personal data.

    Who had erased accounts is forgotten after `remember_erased`.
    """

    idle_seconds = 600.0

    def __init__(self, database: Database, *, remember_erased: timedelta) -> None:
        self._database = database
        self._remember_erased = remember_erased

    async def run_once(self) -> int:
        erased_before = clock.now() - self._remember_erased
        async with self._database.transaction() as connection:
            deleted = await persons.forget_erased(connection, before=erased_before, limit=BATCH_ROWS)
            deleted += await login_sessions.delete_expired(connection, limit=BATCH_ROWS)
            deleted += await one_time_tokens.delete_expired(connection)
            deleted += await throttles.delete_expired(connection, limit=BATCH_ROWS)
            deleted += await erasure.erase_usage_details(connection, limit=BATCH_ROWS)
            deleted += await erasure.erase_payment_details(connection, limit=BATCH_ROWS)
            return deleted + await notifications.delete_expired(connection, limit=BATCH_ROWS)


class IdempotencyCleaner:
    """Deletes the stored responses of the admin API a day after they were given."""

    idle_seconds = 600.0

    def __init__(self, database: Database, *, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._now = now

    async def run_once(self) -> int:
        async with self._database.transaction() as connection:
            return await idempotency.delete_expired(connection, self._now() - RESPONSE_LIFETIME, limit=BATCH_ROWS)
