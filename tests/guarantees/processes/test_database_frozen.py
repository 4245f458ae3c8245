"""A PostgreSQL process that is frozen is an outage with a name; its own statement timeout cannot fire."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.usage.ingestion import _copy, ingest
from policies.usage.records import COLUMNS
from tests.ledger.make import a_line


@pytest.fixture
async def database_of_one(own_database_url: str) -> AsyncIterator[Database]:
    """One connection with a short timeout."""
    opened = Database(own_database_url, pool_size=1, statement_timeout_seconds=0.6)
    yield opened
    await opened.close()


async def _select(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1"))


async def _copy_a_line(connection: AsyncConnection) -> None:
    await _copy(connection, [a_line(uuid4())], COLUMNS)


@pytest.mark.parametrize("statement", [_select, _copy_a_line])
async def test_database_frozen_under_a_statement_is_unavailable_and_its_connection_replaced(
    database_of_one: Database, statement: Callable[[AsyncConnection], Awaitable[None]]
) -> None:
    async def run_frozen(pid: int) -> None:
        async with database_of_one.transaction() as connection:
            await ingest(connection, [])  # creates the staging tables of a copy
            os.kill(pid, signal.SIGSTOP)
            async with asyncio.timeout(10):
                await statement(connection)

    async with database_of_one.read() as connection:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    try:
        with pytest.raises(DatabaseUnavailable, match="out of reach"):
            await run_frozen(pid)
        await database_of_one.ping()
    finally:
        os.kill(pid, signal.SIGCONT)
