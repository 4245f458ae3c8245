"""Forgets what is over: sessions, tokens and throttles, old notices, and what calls say of people who were erased."""

from __future__ import annotations

from gateway.ledger.accounts import erasure, login_sessions, one_time_tokens, throttles
from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database

BATCH = 1000


class Tidier:
    """Some at a time, so that nobody waits for its locks."""

    idle_seconds = 600.0

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> int:
        """Gives how much was forgotten."""
        async with self._database.transaction() as connection:
            forgotten = await login_sessions.tidy(connection, limit=BATCH)
            forgotten += await one_time_tokens.tidy(connection)
            forgotten += await throttles.tidy(connection, limit=BATCH)
            forgotten += await erasure.clean(connection, limit=BATCH)
            return forgotten + await notifications.tidy(connection, limit=BATCH)
