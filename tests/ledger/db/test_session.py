"""Transactions are atomic, connections are replaced, and every outage raises DatabaseUnavailable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gateway.clock import monotonic_seconds
from gateway.ledger.db import session
from gateway.ledger.db.session import Database, DatabaseUnavailable, InvalidDatabaseUrl, outages_typed

CREATE = text("CREATE TABLE IF NOT EXISTS notes (note text)")
WRITE = text("INSERT INTO notes VALUES ('x')")
COUNT = text("SELECT count(*) FROM notes")


@pytest.fixture(autouse=True)
def _usual_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CONNECT_TIMEOUT_SECONDS", 2.0)


@pytest.fixture
async def single(own_database_url: str) -> AsyncIterator[Database]:
    """A pool of one connection, so that a leak shows at once."""
    opened = Database(own_database_url, pool_size=1, statement_timeout_seconds=5, lock_timeout_seconds=0.1)
    async with opened.transaction() as connection:
        await connection.execute(CREATE)
    yield opened
    await opened.close()


async def _count(database: Database) -> int:
    async with database.read() as connection:
        count: int = (await connection.execute(COUNT)).scalar_one()
    return count


async def _terminate(url: str, pid: int) -> None:
    other = Database(url, pool_size=1)
    async with other.transaction() as killer:
        await killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    await other.close()


async def test_transaction_commits_at_the_end_of_its_block(single: Database) -> None:
    async with single.transaction() as connection:
        await connection.execute(WRITE)
    assert await _count(single) == 1


async def test_transaction_rolls_back_when_its_block_raises(single: Database) -> None:
    async def fail() -> None:
        async with single.transaction() as connection:
            await connection.execute(WRITE)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await _count(single) == 0


async def test_cancelled_statement_leaks_neither_work_nor_connection(single: Database) -> None:
    started = asyncio.Event()

    async def slow() -> None:
        async with single.transaction() as connection:
            await connection.execute(WRITE)
            started.set()
            await connection.execute(text("SELECT pg_sleep(30)"))

    task = asyncio.create_task(slow())
    await started.wait()
    await asyncio.sleep(0)  # into the statement
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _count(single) == 0


async def test_read_transaction_cannot_write(single: Database) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with single.read() as connection:
            await connection.execute(WRITE)


async def test_connection_to_a_server_that_takes_no_writes_is_unavailable_and_replaced(single: Database) -> None:
    """As after a failover: the old server is a standby now, and the name leads to another one."""
    async with single.transaction() as connection:
        before = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(DatabaseUnavailable, match="takes no writes"):
        async with single.transaction() as connection:
            await connection.execute(WRITE)
    async with single.transaction() as connection:
        await connection.execute(WRITE)
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != before


async def test_database_that_takes_no_writes_is_refused_by_a_check(single: Database) -> None:
    await single.check_writable()
    async with single.transaction() as connection:
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(DatabaseUnavailable, match="takes no writes"):
        await single.check_writable()


async def test_terminated_connection_is_unavailable_once_and_replaced(single: Database) -> None:
    async def lose_the_connection() -> None:
        async with single.transaction() as connection:
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await _terminate(single.url, pid)
            await connection.execute(WRITE)

    with pytest.raises(DatabaseUnavailable):
        await lose_the_connection()
    assert await _count(single) == 0


async def test_dead_idle_connection_causes_no_error(single: Database) -> None:
    async with single.read() as connection:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    await _terminate(single.url, pid)
    await single.ping()
    async with single.read() as connection:
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid


async def test_connection_is_asked_whether_it_lives_only_after_a_while(
    single: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, dialect = 0, single._engine.sync_engine.dialect

    def does_not_answer(_: object) -> bool:
        nonlocal asked
        asked += 1
        raise dialect.loaded_dbapi.InterfaceError("no answer")

    monkeypatch.setattr(dialect, "do_ping", does_not_answer)
    pids = [await _backend(single) for _ in range(3)]
    assert (len(set(pids)), asked) == (1, 0)
    later = monotonic_seconds() + session.UNASKED_SECONDS
    monkeypatch.setattr(session, "monotonic_seconds", lambda: later)
    assert await _backend(single) not in pids
    assert asked == 1


async def _backend(database: Database) -> int:
    async with database.look_up() as connection:
        pid: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    return pid


async def test_look_up_costs_one_statement(single: Database) -> None:
    pid = await _backend(single)
    other = Database(single.url, pool_size=1)
    async with other.read() as connection:
        last = "SELECT query FROM pg_stat_activity WHERE pid = :pid"
        query = (await connection.execute(text(last), {"pid": pid})).scalar_one()
    await other.close()
    assert query == "SELECT pg_backend_pid()"  # no ROLLBACK


async def test_transaction_after_a_look_up_is_one_again(single: Database) -> None:
    await _backend(single)
    async with single.transaction() as connection:
        await connection.execute(WRITE)
        await connection.rollback()
    assert await _count(single) == 0


async def test_slow_statement_is_unavailable(own_database_url: str) -> None:
    hasty = Database(own_database_url, pool_size=1, statement_timeout_seconds=0.6)
    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        async with hasty.transaction() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))
    await hasty.ping()
    await hasty.close()


async def test_lock_timeout_is_unavailable(single: Database) -> None:
    other = Database(single.url, pool_size=1)
    async with other.transaction() as holder:
        await holder.execute(text("LOCK TABLE notes"))
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            async with single.transaction() as connection:
                await connection.execute(WRITE)
    await other.close()


async def test_deadlock_is_unavailable_to_one_and_lets_the_other_go_on(single: Database) -> None:
    database = Database(single.url, pool_size=2)
    both_hold = asyncio.Barrier(2)

    async def take(*locks: int) -> None:
        async with database.transaction() as connection:
            for number, lock in enumerate(locks):
                if number:
                    await both_hold.wait()
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})

    ends = await asyncio.gather(take(1, 2), take(2, 1), return_exceptions=True)
    await database.close()
    (failed,) = [end for end in ends if end is not None]
    assert isinstance(failed, DatabaseUnavailable)
    assert "deadlock" in str(failed)


async def test_silent_server_is_unavailable_within_the_connect_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = Database(f"postgresql://gateway@127.0.0.1:{port}/gateway?ssl=disable")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(DatabaseUnavailable, match="out of reach"):
        await database.ping()
    assert loop.time() - begun < 20  # asyncpg itself would wait for a minute
    await database.close()
    server.close()


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "postgresql://nobody@/none?host=/nowhere"])
async def test_closed_port_is_unavailable(url: str) -> None:
    database = Database(url)
    with pytest.raises(DatabaseUnavailable, match="out of reach"):
        await database.ping()
    await database.close()


async def test_missing_database_is_unavailable_and_named(own_database_url: str) -> None:
    database = Database(own_database_url.rpartition("/")[0] + "/missing")
    with pytest.raises(DatabaseUnavailable, match='"missing" does not exist'):
        await database.ping()
    await database.close()


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError])
async def test_unrelated_timeout_is_not_an_outage(single: Database, error: type[OSError]) -> None:
    async def fail() -> None:
        async with single.transaction():
            raise error

    with pytest.raises(error):
        await fail()


async def test_value_of_the_wrong_type_is_not_an_outage(single: Database) -> None:
    async with single.read() as connection:
        with pytest.raises(DBAPIError, match="invalid input for query argument"):
            await connection.execute(text("SELECT CAST(:number AS int)"), {"number": "three"})


def test_concurrent_use_of_a_connection_is_not_an_outage() -> None:
    with pytest.raises(asyncpg.InterfaceError), outages_typed():
        raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")


async def test_exhausted_pool_is_unavailable(single: Database) -> None:
    async with single.read():
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await single.ping()


@pytest.mark.parametrize(("url", "complaint"), [("mysql://u:secret@h/d", "not mysql://"), ("secret", "not a URL")])
def test_invalid_database_url_error_hides_the_password(url: str, complaint: str) -> None:
    with pytest.raises(InvalidDatabaseUrl, match=complaint) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


async def test_database_repr_hides_the_password() -> None:
    database = Database("postgresql://gateway:secret@127.0.0.1/gateway")
    assert "secret" not in repr(database)
    await database.close()
