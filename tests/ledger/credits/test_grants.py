"""Every movement of credits is in the ledger, the balance and the grants."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits.grants import adjust, get_balance, grant, list_open_grants
from gateway.ledger.credits.movements import list_ledger
from gateway.ledger.db.errors import InvalidValue, NotFound
from gateway.ledger.db.outbox import lock_pending_for
from gateway.ledger.db.session import Database
from tests.ledger.make import a_user
from tests.support.waiting import until_waiting


async def test_grant_is_in_balance_ledger_and_grants(connection: AsyncConnection) -> None:
    user, expires_at = await a_user(connection), datetime.now(UTC) + timedelta(days=9)
    entry = await grant(
        connection,
        user.id,
        amount=40,
        source="purchase",
        reason="pack-40",
        actor="provider:stripe",
        expires_at=expires_at,
    )
    assert (entry.kind, entry.amount, entry.balance_after) == ("grant", 40, 40)
    assert (entry.reason, entry.actor) == ("pack-40", "provider:stripe")
    assert (await list_ledger(connection, user.id)).data == (entry,)
    found = await get_balance(connection, user.id)
    assert found is not None
    assert (found.current_credits, found.total_credits_purchased, found.credit_seq) == (40, 40, 1)
    (given,) = await list_open_grants(connection, user.id)
    assert (given.id, given.remaining, given.expires_at, given.priority) == (entry.grant_id, 40, expires_at, 50)


async def test_total_purchased_counts_purchases_only(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await grant(connection, user.id, amount=40, source="promo", reason="x", actor="test")
    found = await get_balance(connection, user.id)
    assert found is not None
    assert found.total_credits_purchased == 0


async def test_positive_adjustment_is_a_grant_without_expiry(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    entry = await adjust(connection, user.id, amount=5, reason="sorry", actor="admin:ada")
    assert (entry.kind, entry.amount, entry.balance_after) == ("adjustment", 5, 5)
    (given,) = await list_open_grants(connection, user.id)
    assert (given.id, given.source, given.remaining, given.expires_at) == (entry.grant_id, "admin", 5, None)


async def test_negative_adjustment_burns_down_grants_and_then_makes_debt(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await grant(connection, user.id, amount=10, source="promo", reason="x", actor="test")
    await adjust(connection, user.id, amount=-4, reason="too much", actor="admin:ada")
    assert [given.remaining for given in await list_open_grants(connection, user.id)] == [6]
    entry = await adjust(connection, user.id, amount=-10, reason="fraud", actor="admin:ada")
    assert entry.balance_after == -4
    assert await list_open_grants(connection, user.id) == ()
    await adjust(connection, user.id, amount=6, reason="settled", actor="admin:ada")
    assert [given.remaining for given in await list_open_grants(connection, user.id)] == [2]


@pytest.mark.parametrize("amount", [0, -1])
async def test_grant_of_zero_is_refused(connection: AsyncConnection, amount: int) -> None:
    user = await a_user(connection)
    with pytest.raises(InvalidValue, match="ck_credit_grants_amount_positive"):
        await grant(connection, user.id, amount=amount, source="promo", reason="x", actor="test")


async def test_adjustment_by_zero_is_refused(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    with pytest.raises(InvalidValue, match="ck_credit_ledger_amount_sign"):
        await adjust(connection, user.id, amount=0, reason="x", actor="test")


async def test_unknown_user_has_no_credits(connection: AsyncConnection) -> None:
    assert await get_balance(connection, uuid4()) is None
    with pytest.raises(NotFound):
        await grant(connection, uuid4(), amount=1, source="promo", reason="x", actor="test")
    with pytest.raises(NotFound):
        await adjust(connection, uuid4(), amount=-1, reason="x", actor="test")


async def test_concurrent_movements_have_gapless_sequence(own_database_url: str) -> None:
    database = Database(own_database_url, pool_size=4)
    async with database.transaction() as connection:
        user = await a_user(connection)

    async def move(amount: int) -> None:
        async with database.transaction() as connection:
            await adjust(connection, user.id, amount=amount, reason="x", actor="test")

    await asyncio.gather(*(move(amount) for amount in (5, -3, 7, -9, 4, 6, -1, 2)))
    async with database.transaction() as connection:
        told = [entry.payload for entry in await lock_pending_for(connection, user.id)]
        book = (await list_ledger(connection, user.id)).data[::-1]
    await database.close()
    assert [push["credit_seq"] for push in told] == list(range(1, 9))
    assert [push["amount"] for push in told] == [entry.amount for entry in book]
    assert [entry.balance_after for entry in book] == [sum(e.amount for e in book[: n + 1]) for n in range(8)]


async def test_debt_is_paid_by_one_of_two_concurrent_grants(own_database_url: str) -> None:
    database = Database(own_database_url, pool_size=3)
    async with database.transaction() as connection:
        user = await a_user(connection)
        await adjust(connection, user.id, amount=-10, reason="debt", actor="test")

    async def give() -> None:
        async with database.transaction() as connection:
            await grant(connection, user.id, amount=10, source="promo", reason="x", actor="test")

    async with database.transaction() as first:
        await grant(first, user.id, amount=10, source="promo", reason="x", actor="test")
        second = asyncio.create_task(give())
        async with asyncio.timeout(5):
            await until_waiting(database)
    await second
    async with database.read() as connection:
        assert [given.remaining for given in await list_open_grants(connection, user.id)] == [10]
    await database.close()


async def test_ledger_is_listed_newest_first_by_cursor(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    for amount in (1, 2, 3):
        await adjust(connection, user.id, amount=amount, reason="x", actor="test")
    first = await list_ledger(connection, user.id, limit=2)
    second = await list_ledger(connection, user.id, limit=2, cursor=first.next_cursor)
    assert [entry.amount for entry in first.data + second.data] == [3, 2, 1]
    assert second.next_cursor is None
