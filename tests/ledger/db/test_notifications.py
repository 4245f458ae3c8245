"""Notifications are enqueued with the change, leased by one worker at a time, and keep their id."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.notifications import Delivery
from gateway.ledger.db.session import Database
from tests.ledger.make import a_user, list_notifications


async def test_notification_has_a_delivery_per_channel(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await notifications.enqueue(connection, user.id, kind="credits.threshold", payload={"percent": 80})
    leased = await notifications.lease(connection, limit=10, lease_seconds=60)
    assert {(each.channel, each.kind, each.email, each.attempts) for each in leased} == {
        ("mail", "credits.threshold", user.email, 1),
        ("webhook", "credits.threshold", user.email, 1),
    }
    assert {str(each.payload) for each in leased} == {"{'percent': 80}"}


async def test_notification_of_one_once_is_enqueued_once_per_user(connection: AsyncConnection) -> None:
    users = [await a_user(connection), await a_user(connection)]
    created = [
        await notifications.enqueue(connection, user.id, kind="k", payload={}, once=once)
        for user in users
        for once in ("first", "first", "second", None, None)
    ]
    assert created == [True, False, True, True, True] * 2


async def test_leased_delivery_is_due_after_its_lease(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await notifications.enqueue(connection, user.id, kind="k", payload={}, channels=(notifications.WEBHOOK,))
    (first,) = await notifications.lease(connection, limit=10, lease_seconds=60)
    assert await notifications.lease(connection, limit=10, lease_seconds=60) == ()
    await _expire(connection)
    (second,) = await notifications.lease(connection, limit=10, lease_seconds=60)
    assert (second.id, second.attempts) == (first.id, 2)
    await notifications.finish(connection, first, status="failed")  # the attempt that was given up for lost
    await _expire(connection)
    (third,) = await notifications.lease(connection, limit=10, lease_seconds=60)
    await notifications.finish(connection, third, status="delivered")
    await _expire(connection)
    assert await notifications.lease(connection, limit=10, lease_seconds=60) == ()


async def test_rescheduled_delivery_waits_for_its_delay(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await notifications.enqueue(connection, user.id, kind="k", payload={}, channels=(notifications.MAIL,))
    (leased,) = await notifications.lease(connection, limit=10, lease_seconds=0)
    await notifications.reschedule(connection, leased, delay_seconds=60, error="no route")
    assert await notifications.lease(connection, limit=10, lease_seconds=60) == ()
    await notifications.reschedule(connection, leased, delay_seconds=0, error="no route")
    assert len(await notifications.lease(connection, limit=10, lease_seconds=60)) == 1


async def test_workers_lease_different_deliveries(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with database.transaction() as connection:
        user = await a_user(connection)
        for number in range(4):
            await notifications.enqueue(
                connection, user.id, kind="k", payload={"n": number}, channels=(notifications.MAIL,)
            )
    async with database.transaction() as one, database.transaction() as other:
        some = await notifications.lease(one, limit=2, lease_seconds=60)
        rest = await notifications.lease(other, limit=4, lease_seconds=60)
    assert len(_ids(some)) == len(_ids(rest)) == 2
    assert not _ids(some) & _ids(rest)
    await database.close()


async def test_deleted_user_has_no_notifications(connection: AsyncConnection) -> None:
    user, other = await a_user(connection), await a_user(connection)
    for each in (user, other):
        await notifications.enqueue(connection, each.id, kind="k", payload={"for": each.email})
    await notifications.delete_for_user(connection, user.id)
    assert await list_notifications(connection, user.id) == []
    assert await list_notifications(connection, other.id) == [("k", {"for": other.email})]
    assert len(await notifications.lease(connection, limit=10, lease_seconds=60)) == 2


def _ids(leased: tuple[Delivery, ...]) -> set[object]:
    return {each.id for each in leased}


async def _expire(connection: AsyncConnection) -> None:
    await connection.execute(text("UPDATE notice_deliveries SET due_at = now()"))
