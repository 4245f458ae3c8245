"""Which secrets are stored is found out for all that wait by one statement."""

from __future__ import annotations

import asyncio
from secrets import token_bytes

import pytest
from asyncpg.connection import LoggedQuery
from sqlalchemy import text

from gateway.ledger.accounts import api_keys
from gateway.ledger.accounts.stored_digests import API_KEYS, MAX_AT_ONCE, StoredDigests
from gateway.ledger.db.session import Database, DatabaseUnavailable
from tests.ledger.make import a_fingerprint, a_user


async def _stored_key(database: Database) -> bytes:
    fingerprint = a_fingerprint()
    async with database.transaction() as connection:
        user = await a_user(connection)
        await api_keys.create(connection, user.id, fingerprint=fingerprint)
    return fingerprint.key_hash


async def _statements(database: Database) -> list[LoggedQuery]:
    """Those for keys that the connection beside the pool makes from here on."""
    made: list[LoggedQuery] = []

    def note(query: LoggedQuery) -> None:
        if query.query in API_KEYS:
            made.append(query)

    await database.fetch("SELECT 1")
    assert database._driver._connection is not None
    database._driver._connection.add_query_logger(note)
    return made


async def test_stored_digest_is_told_from_others(database: Database) -> None:
    stored = StoredDigests(database, API_KEYS)
    key_hash = await _stored_key(database)
    assert await stored.has_any([key_hash])
    assert await stored.has_any([token_bytes(32), key_hash])
    assert not await stored.has_any([token_bytes(32), token_bytes(32)])
    assert not await stored.has_any([])


async def test_digests_that_wait_are_asked_for_by_one_statement(migrated_url: str) -> None:
    database = Database(migrated_url)
    key_hash, made = await _stored_key(database), await _statements(database)
    stored = StoredDigests(database, API_KEYS)
    async with database.transaction() as holder:
        await holder.execute(text("LOCK TABLE api_keys"))
        first = asyncio.create_task(stored.has_any([token_bytes(32)]))
        while not await holder.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            pass
        others = [asyncio.create_task(stored.has_any([token_bytes(32)])) for _ in range(9)]
        known = asyncio.create_task(stored.has_any([key_hash]))
        await asyncio.sleep(0)
    assert await asyncio.gather(first, *others, known) == [False] * 10 + [True]
    assert len(made) == 2
    await database.close()


async def test_one_statement_asks_for_a_bounded_number_of_digests(migrated_url: str) -> None:
    database = Database(migrated_url)
    made = await _statements(database)
    stored = StoredDigests(database, API_KEYS)
    asked = [asyncio.create_task(stored.has_any([token_bytes(32)])) for _ in range(2 * MAX_AT_ONCE + 1)]
    assert not any(await asyncio.gather(*asked))
    assert [each.query for each in made] == [API_KEYS.find_one, *[API_KEYS.find_several] * 2]
    assert [len(each.args[0]) for each in made[1:]] == [MAX_AT_ONCE, MAX_AT_ONCE]
    await database.close()


async def test_outage_is_told_to_all_digests_that_wait() -> None:
    database = Database("postgresql://u:p@127.0.0.1:1/none")
    stored = StoredDigests(database, API_KEYS)
    asked = await asyncio.gather(*(stored.has_any([token_bytes(32)]) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in asked] == [DatabaseUnavailable] * 3
    with pytest.raises(DatabaseUnavailable):
        await stored.has_any([token_bytes(32)])
    await database.close()


async def test_client_that_leaves_takes_no_answer_from_others(database: Database) -> None:
    stored = StoredDigests(database, API_KEYS)
    key_hash = await _stored_key(database)
    first, second = (asyncio.create_task(stored.has_any([key_hash])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first
