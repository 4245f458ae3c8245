"""The connection beside the pool is there when the pool is not, and is opened again when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from gateway.ledger.db import session
from gateway.ledger.db.session import Database, DatabaseUnavailable

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def single(migrated_url: str) -> AsyncIterator[Database]:
    opened = Database(migrated_url, pool_size=1)
    yield opened
    await opened.close()


async def _end(database: Database, pid: int) -> None:
    other = Database(database.url, pool_size=1)
    async with other.transaction() as killer:
        await killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    await other.close()


async def test_driver_connection_serves_while_the_pool_is_busy(single: Database) -> None:
    async with single.read() as connection:
        pooled = await connection.scalar(text(PID))
        ((pid,),) = await single.fetch(PID)
    assert pid != pooled


async def test_driver_connection_serves_statements_one_after_another(single: Database) -> None:
    rows = await asyncio.gather(*(single.fetch("SELECT $1::int, pg_backend_pid()", each) for each in range(5)))
    assert [found[0][0] for found in rows] == list(range(5))
    assert len({found[0][1] for found in rows}) == 1


async def test_driver_connection_that_was_ended_causes_no_error(single: Database) -> None:
    ((pid,),) = await single.fetch(PID)
    await _end(single, pid)
    assert await single.fetch(PID) != [(pid,)]


async def test_driver_connection_that_ends_in_a_statement_makes_it_again(migrated_url: str) -> None:
    database = Database(migrated_url, pool_size=1)
    ((pid,),) = await database.fetch(PID)
    async with database.transaction() as holder:
        await holder.execute(text("LOCK TABLE webhook_events"))
        waiting = asyncio.create_task(database.fetch("SELECT pg_backend_pid(), count(*) FROM webhook_events"))
        while not await holder.scalar(
            text("SELECT count(*) FROM pg_locks WHERE pid = :pid AND NOT granted"), {"pid": pid}
        ):
            pass
        await _end(database, pid)
    ((again, _),) = await waiting
    assert again != pid
    await database.close()


async def test_driver_connection_is_replaced_with_those_of_the_pool(single: Database) -> None:
    """As after a failover, which a write finds out."""
    ((before,),) = await single.fetch(PID)
    async with single.transaction() as connection:
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(DatabaseUnavailable, match="takes no writes"):
        async with single.transaction() as connection:
            await connection.execute(text("DELETE FROM webhook_events WHERE false"))
    assert await single.fetch(PID) != [(before,)]


async def test_driver_connection_goes_on_after_a_slow_statement(migrated_url: str) -> None:
    hasty = Database(migrated_url, statement_timeout_seconds=0.6)
    ((pid,),) = await hasty.fetch(PID)
    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        await hasty.fetch("SELECT pg_sleep(30)")
    assert await hasty.fetch(PID) == [(pid,)]
    await hasty.close()


async def test_driver_connection_to_a_silent_server_is_replaced(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GRACE_SECONDS", -59.0)  # so that the client gives up first, after a second
    impatient = Database(migrated_url, statement_timeout_seconds=60.0)
    ((before,),) = await impatient.fetch(PID)
    with pytest.raises(DatabaseUnavailable, match="out of reach"):
        await impatient.fetch("SELECT pg_sleep(30)")
    assert await impatient.fetch(PID) != [(before,)]
    await impatient.close()


async def test_driver_connection_raises_errors_of_statements_once(single: Database) -> None:
    ((pid,),) = await single.fetch(PID)
    with pytest.raises(asyncpg.UndefinedTableError):
        await single.fetch("SELECT 1 FROM nothing")
    with pytest.raises(asyncpg.InterfaceError, match="expects 0 arguments"):
        await single.fetch(PID, 1)
    assert await single.fetch(PID) == [(pid,)]


async def test_driver_connection_to_a_closed_port_is_unavailable() -> None:
    database = Database("postgresql://u:p@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable, match="out of reach"):
        await database.fetch(PID)
    await database.close()
