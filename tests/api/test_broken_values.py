"""NUL, halves of characters, numbers beyond every type and texts without end, at every place of both APIs.

Each is refused or made harmless, lists and workers go on, and nothing is a fault of the gateway. The suite sends a part
of them, `make fuzz` sends all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.notifications.email_templates import Email, TemplateContext
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.renewals import RenewalWorker
from gateway.workers.notifications import NotificationSender
from gateway.workers.outbox import OutboxPublisher
from tests.api.account.conftest import AccountApi
from tests.api.account.conftest import client_of as account_client_of
from tests.api.broken_values import IN_ADDRESSES, Operation, Places
from tests.api.conftest import AdminApi, admin_app, client_of
from tests.api.published import account_app
from tests.support.sampling import IS_FULL, seeded_random

T = TypeVar("T")

PARTITIONS = 4
# What it takes a payment provider for, and there is none.
NOT_CONFIGURED = 501


class Recorder:
    """A mailer that takes all mail."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, to: str, email: Email, *, message_id: str) -> None:
        f"{to} {email} {message_id}".encode()
        self.sent += 1


@pytest.fixture(scope="module")
async def own(new_database_url: Callable[[], Awaitable[str]]) -> AsyncIterator[Database]:
    """A database of its own: the workers go through all of it."""
    database = Database(await new_database_url())
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def redis_client(valkey_url: str) -> AsyncIterator[RedisClient]:
    client = RedisClient(f"{valkey_url.removesuffix('/0')}/7", timeout_seconds=5, scripts=SCRIPTS)
    await client.open()
    yield client
    await client.close()


@pytest.fixture(scope="module")
async def meter(redis_client: RedisClient) -> Meter:
    return Meter(redis_client, partitions=PARTITIONS, owner="admin")


@pytest.fixture(scope="module")
async def admin(own: Database, meter: Meter, redis_client: RedisClient) -> AsyncIterator[AdminApi]:
    publish = OutboxPublisher(own, meter).publish_all
    app = admin_app(own, publish, missing={}, redis_client=redis_client)
    async with client_of(app) as client:
        yield AdminApi(app, client, own, meter, {})


@pytest.fixture(scope="module")
async def account(own: Database, meter: Meter, redis_client: RedisClient) -> AsyncIterator[AccountApi]:
    app = account_app(own, redis_client)
    async with account_client_of(app) as client:
        yield AccountApi(app, own, meter, redis_client, client)


async def test_admin_api_takes_no_harm_from_broken_values(admin: AdminApi) -> None:
    user = await admin.create_user()
    plan = await admin.post("/plans", {"name": "Broken", "price": "1.00"}, status=201)
    product = await admin.post("/products", {"name": "Broken"}, status=201)
    permission = await admin.post("/permissions", {"name": "broken"}, status=201)
    known = {
        "user_id": user["id"],
        "key_id": (await admin.create_key(user["id"]))["id"],
        **dict.fromkeys(("plan", "plan_id"), plan["id"]),
        "product_id": product["id"],
        "permission": permission["name"],
        "permission_id": permission["id"],
    }
    sent = await _sweep(admin.client, known, fresh_client=None)
    assert sent > (3_000 if IS_FULL else 300)
    await _all_lists_are_whole(admin.client, known)


async def test_account_api_takes_no_harm_from_broken_values(account: AccountApi) -> None:
    customer = await account.customer()

    async def fresh_client() -> httpx.AsyncClient:
        return (await account.customer()).client

    sent = await _sweep(customer.client, {}, fresh_client=fresh_client)
    assert sent > (500 if IS_FULL else 100)
    await _all_lists_are_whole((await account.customer()).client, {})


async def test_workers_go_on_after_broken_values(account: AccountApi, own: Database, meter: Meter) -> None:
    journal, mailer = Journal(account.redis_client, PARTITIONS), Recorder()
    customer = await account.customer()
    await customer.post("/me/verify-email", status=202)  # a mail that is due after all others

    def in_two_months() -> datetime:
        return clock.now() + timedelta(days=62)

    workers = (
        OutboxPublisher(own, meter),
        RenewalWorker(own, journal, grace=timedelta(days=3), now=in_two_months),
        CreditExpiryWorker(own, journal, grace=timedelta(days=3), now=in_two_months),
        OutboxPublisher(own, meter),
        NotificationSender(own, mailer, None, context=TemplateContext(secret="secret")),
    )
    for worker in workers:
        for _ in range(1000):
            if not await worker.run_once():
                break
        else:
            raise AssertionError(f"{worker} does not come to an end")
    for name in ("subscriptions", "credits"):
        assert not REGISTRY.get_sample_value("gateway_worker_parked", {"worker": name})
    async with own.read() as connection:
        waiting = (await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one()
    assert waiting == 0
    assert mailer.sent > 0


async def _sweep(client: httpx.AsyncClient, known: dict[str, str], *, fresh_client: Any) -> int:
    """Sends every broken value to every place; gives how many requests it sent."""
    places, count = Places((await client.get("/openapi.json")).json(), str(uuid4())), 0
    for operation in places.operations():
        path = _filled(operation, known)
        for where, content in _part(places.bodies(operation, known), operation):
            if fresh_client is not None and count % 20 == 0:  # what ends a session ends that one
                client = await fresh_client()
            headers = {"content-type": "application/json"}
            response = await client.request(operation.method, path, content=content, headers=headers)
            _assert_answered(response, f"{operation.method} {operation.path} {where} {content[:200]!r}")
            count += 1
        for target in _part(_targets(operation, path, known), operation):
            response = await client.request(operation.method, target)
            _assert_answered(response, f"{operation.method} {target[:200]}")
            count += 1
    return count


def _part(cases: Iterator[T], operation: Operation) -> list[T]:
    """All of them, in the suite a tenth, the same in each run."""
    found = list(cases)
    if IS_FULL or not found:
        return found
    return seeded_random(f"{operation.method} {operation.path}").sample(found, -(-len(found) // 10))


def _filled(operation: Operation, known: dict[str, str]) -> str:
    path = operation.path
    for name in operation.in_path:
        path = path.replace(f"{{{name}}}", known.get(name, str(uuid4())))
    return path


def _targets(operation: Operation, path: str, known: dict[str, str]) -> Iterator[str]:
    for name in operation.query:
        for value in IN_ADDRESSES:
            yield f"{path}?{name}={value}"
    if operation.method == "GET":
        for name in operation.in_path:
            for value in IN_ADDRESSES:
                yield _filled(operation, known | {name: value})


def _assert_answered(response: httpx.Response, what: str) -> None:
    status = response.status_code
    assert status < 500 or status == NOT_CONFIGURED, f"{what}: {status} {response.text[:500]}"
    if status >= 400:
        assert response.json()["code"] != "internal_error", what
    elif response.content and response.headers.get("content-type", "").startswith("application/json"):
        response.json()


async def _all_lists_are_whole(client: httpx.AsyncClient, known: dict[str, str]) -> None:
    """Whatever was stored can be read, in pages, as JSON and where there is one as CSV."""
    places = Places((await client.get("/openapi.json")).json(), str(uuid4()))
    for operation in places.operations():
        if operation.method != "GET" or not set(operation.in_path) <= known.keys():
            continue
        for query in ("", "?limit=500", "?format=csv"):
            response = await client.get(_filled(operation, known) + query)
            assert response.status_code < 500, f"{operation.path}{query}: {response.text[:500]}"
