"""Waits until statements wait for the locks of others."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from gateway.ledger.db.session import Database

_PATIENCE_SECONDS = 30
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


async def until_waiting(database: Database, count: int = 1) -> None:
    """Until so many statements wait in this database."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            async with database.read() as connection:
                if (await connection.execute(_WAITING)).scalar_one() >= count:
                    return
            await asyncio.sleep(0.005)
