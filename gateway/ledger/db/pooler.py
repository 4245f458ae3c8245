"""What a pooler between the gateway and PostgreSQL breaks, found by doing it.

PgBouncer in transaction mode gives each transaction any session of the server. asyncpg prepares statements in its
session, so it needs a pooler that prepares them wherever they are used (PgBouncer 1.21, `max_prepared_statements`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import Database, DatabaseUnavailable

TIMEOUTS = {"statement_timeout": "7s", "lock_timeout": "3s"}
_PREPARED = "SELECT $1::int"
_STARTUP_REFUSED = "unsupported startup parameter"


class UnfitPooler(Exception):  # noqa: N818 - named for the condition
    """A pooler does not keep what the gateway needs of a session; the message names the setting."""


async def check_pooler(url: str) -> list[str]:
    """The run-time parameters that a pooler drops; empty without one. Raises UnfitPooler, DatabaseUnavailable."""
    database = Database(url, pool_size=2, statement_timeout_seconds=7.0, lock_timeout_seconds=3.0)
    try:
        with _refusals_named():
            async with database.look_up() as one, database.look_up() as other:
                await _check_prepared(await _driver(one), await _driver(other))
                return [name for name, value in TIMEOUTS.items() if await _setting(one, name) != value]
    finally:
        await database.close()


async def _check_prepared(one: asyncpg.Connection, other: asyncpg.Connection) -> None:
    await one.fetchval(_PREPARED, 1)
    async with other.transaction():
        await other.fetchval("SELECT 1")  # takes the session that served `one`, where a pooler shares sessions
        await one.fetchval(_PREPARED, 2)


async def _driver(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


async def _setting(connection: AsyncConnection, name: str) -> object:
    return await connection.scalar(text("SELECT current_setting(:name)"), {"name": name})


@contextmanager
def _refusals_named() -> Iterator[None]:
    try:
        yield
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError) as error:
        raise UnfitPooler(
            "database.url leads to a pooler in transaction mode that keeps no prepared statements: set"
            " max_prepared_statements (PgBouncer 1.21 or later), or pool_mode = session"
        ) from error
    except DatabaseUnavailable as error:
        if _STARTUP_REFUSED not in str(error):
            raise
        raise UnfitPooler(
            f"database.url leads to a pooler that takes no timeouts ({error}): set track_extra_parameters and"
            f" ignore_startup_parameters = {', '.join(TIMEOUTS)} (PgBouncer 1.20 or later)"
        ) from error
