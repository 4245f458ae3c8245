"""Redis is told everything, in the order of each account, by one drainer at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.ledger.accounts import users
from gateway.ledger.credits.grants import adjust, grant
from gateway.ledger.db import outbox
from gateway.ledger.db.session import Database
from gateway.ledger.db.versions import bump_account, bump_catalogue
from tests.ledger.make import a_user


@pytest.fixture
async def drained(own_database_url: str) -> AsyncIterator[Database]:
    opened = Database(own_database_url, pool_size=4)
    yield opened
    await opened.close()


async def test_a_change_of_credits_says_by_how_much_and_in_which_place(drained: Database) -> None:
    async with drained.transaction() as connection:
        user = await a_user(connection)
        await grant(connection, user.id, amount=10, source="promo", reason="welcome", actor="test")
        await adjust(connection, user.id, amount=-3, reason="too much", actor="test")
        found = await outbox.pending(connection)
    assert [(entry.kind, entry.user_id, entry.payload) for entry in found] == [
        ("credits", user.id, {"credit_seq": 1, "amount": 10}),
        ("credits", user.id, {"credit_seq": 2, "amount": -3}),
    ]


async def test_a_change_of_account_or_catalogue_says_its_version(drained: Database) -> None:
    async with drained.transaction() as connection:
        user = await users.suspend(connection, (await a_user(connection)).id)
        version = await bump_catalogue(connection)
        found = await outbox.pending(connection)
    assert [(entry.kind, entry.user_id, entry.payload) for entry in found] == [
        ("account", user.id, {"version": user.version}),
        ("catalogue", None, {"version": version}),
    ]


async def test_what_is_done_is_not_told_again(drained: Database) -> None:
    async with drained.transaction() as connection:
        user = await a_user(connection)
        for _ in range(3):
            await bump_account(connection, user.id)
        first, second, third = await outbox.pending(connection)
        await outbox.done(connection, [first.id, third.id])
        assert await outbox.pending(connection) == (second,)


async def test_an_account_in_one_drainers_hands_is_skipped_whole_by_the_others(drained: Database) -> None:
    async with drained.transaction() as connection:
        busy, idle = await a_user(connection), await a_user(connection)
        await bump_account(connection, busy.id)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(drained.transaction())
        held = await outbox.pending(first)
        # Younger entries of the account come in meanwhile: they must not overtake the one in hand.
        async with drained.transaction() as connection:
            await bump_account(connection, busy.id)
            await bump_account(connection, idle.id)
        second = await stack.enter_async_context(drained.transaction())
        assert [entry.user_id for entry in await outbox.pending(second)] == [idle.id]
        assert await outbox.pending_for(second, busy.id) == ()
        await outbox.done(first, [entry.id for entry in held])
    async with drained.transaction() as connection:
        versions = [entry.payload["version"] for entry in await outbox.pending_for(connection, busy.id)]
    assert versions == [3]


async def test_a_limit_takes_the_oldest_of_each_account_first(drained: Database) -> None:
    async with drained.transaction() as connection:
        user = await a_user(connection)
        for _ in range(5):
            await bump_account(connection, user.id)
        everything = await outbox.pending(connection)
        assert await outbox.pending(connection, limit=2) == everything[:2]


async def test_one_accounts_entries_are_found_alone(drained: Database) -> None:
    async with drained.transaction() as connection:
        user, other = await a_user(connection), await a_user(connection)
        await bump_account(connection, other.id)
        await bump_account(connection, user.id)
        assert [entry.user_id for entry in await outbox.pending_for(connection, user.id)] == [user.id]
