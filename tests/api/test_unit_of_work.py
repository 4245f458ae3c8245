"""A committed change stands, whether or not Redis can be reached at once."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from gateway.api.unit_of_work import ChangePublisher
from gateway.ledger.accounts import user_lists
from gateway.ledger.db import outbox
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher
from tests.api.conftest import admin_app, client_of


async def test_change_without_redis_stands_and_waits_in_the_outbox(own_database_url: str, valkey_url: str) -> None:
    database = Database(own_database_url)
    unconnected = Meter(RedisClient("redis://127.0.0.1:1/0", timeout_seconds=1), partitions=4, owner="admin")
    async with client_of(admin_app(database, OutboxPublisher(database, unconnected).publish_all, missing={})) as client:
        response = await client.post("/admin/v1/users", json={"email": "ada@example.com"})
        user = response.json()
        suspended = await client.post(f"/admin/v1/users/{user['id']}/suspend")
    assert (response.status_code, suspended.json()["status"]) == (201, "suspended")

    async with database.transaction() as connection:
        waiting = await outbox.lock_pending(connection)
    assert {(entry.kind, entry.user_id) for entry in waiting} == {("account", UUID(user["id"]))}
    redis_client = RedisClient(f"{valkey_url.removesuffix('/0')}/6", timeout_seconds=5, scripts=SCRIPTS)  # of its own
    await redis_client.open()
    returned = Meter(redis_client, partitions=4, owner="admin")
    assert await OutboxPublisher(database, returned).run_once() == len(waiting)
    await redis_client.close()
    await database.close()


@pytest.mark.parametrize("failure", [MeterUnavailable("away"), MeterError("READONLY"), DatabaseUnavailable("away")])
async def test_publication_failure_does_not_fail_the_request(ledger: Database, failure: Exception) -> None:
    async def fails() -> None:
        raise failure

    async with client_of(admin_app(ledger, fails, missing={})) as client:
        response = await client.post("/admin/v1/users", json={"email": f"{uuid4().hex}@example.com"})
        assert response.status_code == 201
        assert (await client.get(f"/admin/v1/users/{response.json()['id']}")).status_code == 200


async def test_refused_change_is_not_published(ledger: Database) -> None:
    published: list[int] = []

    async def tell() -> None:
        published.append(1)

    async with client_of(admin_app(ledger, tell, missing={})) as client:
        await client.post("/admin/v1/keys", json={"user_id": str(uuid4())})
        await client.get("/admin/v1/users")
    assert published == []


async def test_concurrent_changes_share_publications_and_each_response_follows_its_own(own_database_url: str) -> None:
    database = Database(own_database_url)
    running, published = 0, set[str]()

    async def publish() -> None:
        nonlocal running
        running += 1
        assert running == 1
        async with database.read() as connection:
            published.update(each.user.email for each in (await user_lists.list_users(connection)).data)
        running -= 1

    async with client_of(admin_app(database, publish, missing={})) as client:

        async def create(number: int) -> bool:
            response = await client.post("/admin/v1/users", json={"email": f"{number}@example.com"})
            assert response.status_code == 201
            return response.json()["email"] in published

        assert all(await asyncio.gather(*(create(number) for number in range(10))))
    await database.close()


async def test_change_during_a_publication_waits_for_the_next() -> None:
    committed, published, release = ["first"], list[str](), asyncio.Event()

    async def publish() -> None:
        found = list(committed)
        await release.wait()
        published.extend(found)

    async def tell_of(change: str) -> bool:
        await publisher.publish()
        return change in published

    publisher = ChangePublisher(publish)
    first = asyncio.create_task(tell_of("first"))
    await asyncio.sleep(0)  # the first asks
    await asyncio.sleep(0)  # its publication has looked, and is held up
    committed.append("second")
    second = asyncio.create_task(tell_of("second"))
    await asyncio.sleep(0)
    release.set()
    assert all(await asyncio.gather(first, second))
