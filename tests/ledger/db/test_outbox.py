"""The outbox gives an account's entries in order, to one publisher at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.ledger.accounts import users
from gateway.ledger.credits.grants import adjust, grant
from gateway.ledger.db import outbox
from gateway.ledger.db.outbox import bump_account, bump_catalogue
from gateway.ledger.db.session import Database
from tests.ledger.make import a_user


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    opened = Database(own_database_url, pool_size=4)
    yield opened
    await opened.close()


async def test_credit_entry_has_amount_and_sequence(database: Database) -> None:
    async with database.transaction() as connection:
        user = await a_user(connection)
        await grant(connection, user.id, amount=10, source="promo", reason="welcome", actor="test")
        await adjust(connection, user.id, amount=-3, reason="too much", actor="test")
        found = await outbox.lock_pending(connection)
    assert [(entry.kind, entry.user_id, entry.payload) for entry in found] == [
        ("credits", user.id, {"credit_seq": 1, "amount": 10}),
        ("credits", user.id, {"credit_seq": 2, "amount": -3}),
    ]


async def test_version_entry_has_the_new_version(database: Database) -> None:
    async with database.transaction() as connection:
        user = await users.suspend(connection, (await a_user(connection)).id)
        version = await bump_catalogue(connection)
        found = await outbox.lock_pending(connection)
    assert [(entry.kind, entry.user_id, entry.payload) for entry in found] == [
        ("account", user.id, {"version": user.version}),
        ("catalogue", None, {"version": version}),
    ]


async def test_published_entry_is_deleted(database: Database) -> None:
    async with database.transaction() as connection:
        user = await a_user(connection)
        for _ in range(3):
            await bump_account(connection, user.id)
        first, second, third = await outbox.lock_pending(connection)
        await outbox.delete_published(connection, [first.id, third.id])
        assert await outbox.lock_pending(connection) == (second,)


async def test_account_locked_by_one_publisher_is_skipped_by_others(database: Database) -> None:
    async with database.transaction() as connection:
        busy, idle = await a_user(connection), await a_user(connection)
        await bump_account(connection, busy.id)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(database.transaction())
        held = await outbox.lock_pending(first)
        # Later entries of the account must not overtake the locked one.
        async with database.transaction() as connection:
            await bump_account(connection, busy.id)
            await bump_account(connection, idle.id)
        second = await stack.enter_async_context(database.transaction())
        assert [entry.user_id for entry in await outbox.lock_pending(second)] == [idle.id]
        assert await outbox.lock_pending_for(second, busy.id) == ()
        await outbox.delete_published(first, [entry.id for entry in held])
    async with database.transaction() as connection:
        versions = [entry.payload["version"] for entry in await outbox.lock_pending_for(connection, busy.id)]
    assert versions == [3]


async def test_outbox_limit_takes_the_oldest_entries(database: Database) -> None:
    async with database.transaction() as connection:
        user = await a_user(connection)
        for _ in range(5):
            await bump_account(connection, user.id)
        everything = await outbox.lock_pending(connection)
        assert await outbox.lock_pending(connection, limit=2) == everything[:2]


async def test_outbox_entries_of_one_account_are_found(database: Database) -> None:
    async with database.transaction() as connection:
        user, other = await a_user(connection), await a_user(connection)
        await bump_account(connection, other.id)
        await bump_account(connection, user.id)
        assert [entry.user_id for entry in await outbox.lock_pending_for(connection, user.id)] == [user.id]
