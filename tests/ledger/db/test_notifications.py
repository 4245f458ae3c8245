"""Notices: written with what happened, claimed by one hand at a time, told under one id however often it is tried."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.notifications import Delivery
from gateway.ledger.db.session import Database
from tests.ledger.make import a_user, posted


async def test_a_notice_is_told_by_each_of_its_channels(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await notifications.post(connection, user.id, kind="credits.threshold", payload={"percent": 80})
    told = await notifications.claim(connection, limit=10, lease_seconds=60)
    assert {(each.channel, each.kind, each.email, each.attempts) for each in told} == {
        ("mail", "credits.threshold", user.email, 1),
        ("webhook", "credits.threshold", user.email, 1),
    }
    assert {str(each.payload) for each in told} == {"{'percent': 80}"}


async def test_what_is_noted_once_is_noted_once_for_each_user(connection: AsyncConnection) -> None:
    users = [await a_user(connection), await a_user(connection)]
    posted = [
        await notifications.post(connection, user.id, kind="k", payload={}, once=once)
        for user in users
        for once in ("first", "first", "second", None, None)
    ]
    assert posted == [True, False, True, True, True] * 2


async def test_a_claimed_delivery_is_due_again_when_its_time_is_over(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await notifications.post(connection, user.id, kind="k", payload={}, channels=(notifications.WEBHOOK,))
    (first,) = await notifications.claim(connection, limit=10, lease_seconds=60)
    assert await notifications.claim(connection, limit=10, lease_seconds=60) == ()
    await _expire(connection)
    (second,) = await notifications.claim(connection, limit=10, lease_seconds=60)
    assert (second.id, second.attempts) == (first.id, 2)
    await notifications.end(connection, first, status="failed")  # the attempt that was given up for lost
    await _expire(connection)
    (third,) = await notifications.claim(connection, limit=10, lease_seconds=60)
    await notifications.end(connection, third, status="delivered")
    await _expire(connection)
    assert await notifications.claim(connection, limit=10, lease_seconds=60) == ()


async def test_what_is_put_off_waits_for_its_delay(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await notifications.post(connection, user.id, kind="k", payload={}, channels=(notifications.MAIL,))
    (claimed,) = await notifications.claim(connection, limit=10, lease_seconds=0)
    await notifications.put_off(connection, claimed, delay_seconds=60, error="no route")
    assert await notifications.claim(connection, limit=10, lease_seconds=60) == ()
    await notifications.put_off(connection, claimed, delay_seconds=0, error="no route")
    assert len(await notifications.claim(connection, limit=10, lease_seconds=60)) == 1


async def test_two_workers_never_claim_the_same(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with database.transaction() as connection:
        user = await a_user(connection)
        for number in range(4):
            await notifications.post(
                connection, user.id, kind="k", payload={"n": number}, channels=(notifications.MAIL,)
            )
    async with database.transaction() as one, database.transaction() as other:
        some = await notifications.claim(one, limit=2, lease_seconds=60)
        rest = await notifications.claim(other, limit=4, lease_seconds=60)
    assert len(_ids(some)) == len(_ids(rest)) == 2
    assert not _ids(some) & _ids(rest)
    await database.close()


async def test_an_erased_user_has_no_notices(connection: AsyncConnection) -> None:
    user, other = await a_user(connection), await a_user(connection)
    for each in (user, other):
        await notifications.post(connection, each.id, kind="k", payload={"for": each.email})
    await notifications.erase(connection, user.id)
    assert await posted(connection, user.id) == []
    assert await posted(connection, other.id) == [("k", {"for": other.email})]
    assert len(await notifications.claim(connection, limit=10, lease_seconds=60)) == 2


def _ids(claimed: tuple[Delivery, ...]) -> set[object]:
    return {each.id for each in claimed}


async def _expire(connection: AsyncConnection) -> None:
    await connection.execute(text("UPDATE notice_deliveries SET due_at = now()"))
