"""Notices are told at least once, under one id, until they are taken or it is no use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier

from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database
from gateway.notifications.email_templates import Letter, Stationery
from gateway.notifications.errors import Undelivered
from gateway.notifications.webhook import Webhook
from gateway.workers.notifications import NoticeTeller
from tests.ledger.make import a_user

OLD, NEW = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8
STATIONERY = Stationery(secret="secret")


@dataclass
class Post:
    """Mail that arrives, unless told otherwise."""

    letters: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[Undelivered] = field(default_factory=list)

    async def send(self, to: str, letter: Letter, *, message_id: str) -> None:
        self.letters.append((to, letter.subject, message_id))
        if self.failures:
            raise self.failures.pop(0)


@dataclass
class System:
    """The operator's, which answers by a list of statuses, then 204."""

    requests: list[httpx.Request] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.statuses.pop(0) if self.statuses else 204)

    def webhook(self, *secrets: str) -> Webhook:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return Webhook("https://operator.test/hooks", secrets or (NEW,), http)


@pytest.fixture
async def own(own_database_url: str) -> AsyncIterator[Database]:
    database = Database(own_database_url)
    yield database
    await database.close()


async def test_a_notice_is_mailed_and_posted_once(own: Database) -> None:
    post, system = Post(), System()
    email = await _noted(own)
    teller = NoticeTeller(own, post, system.webhook(), stationery=STATIONERY)
    assert await teller.run_once() == 2
    assert await teller.run_once() == 0
    assert [(to, subject) for to, subject, _ in post.letters] == [(email, "Credits: threshold")]
    assert len(system.requests) == 1
    assert await _statuses(own) == {"mail": "delivered", "webhook": "delivered"}


async def test_a_webhook_verifies_by_either_secret_while_one_is_replaced(own: Database) -> None:
    system = System()
    await _noted(own)
    await NoticeTeller(own, Post(), system.webhook(NEW, OLD), stationery=STATIONERY).run_once()
    (request,) = system.requests
    for secret in (OLD, NEW):
        told: dict[str, Any] = Verifier(secret).verify(request.content, dict(request.headers))
    assert told["type"] == "credits.threshold"
    assert told["data"]["percent"] == 80
    assert told["data"].keys() == {"user_id", "percent"}
    with pytest.raises(Exception, match="No matching signature"):
        Verifier("whsec_" + "eHh4" * 8).verify(request.content, dict(request.headers))


async def test_what_fails_is_told_again_under_the_same_id(own: Database) -> None:
    post, system = Post(failures=[Undelivered("away")]), System(statuses=[500, 302])
    await _noted(own)
    teller = NoticeTeller(own, post, system.webhook(), stationery=STATIONERY)
    for _ in range(4):
        await teller.run_once()
        await _make_due(own)
    assert len(post.letters) == 2
    assert len({message_id for _, _, message_id in post.letters}) == 1
    assert len(system.requests) == 3
    assert len({request.headers["webhook-id"] for request in system.requests}) == 1
    assert await _statuses(own) == {"mail": "delivered", "webhook": "delivered"}


async def test_what_failed_waits_before_it_is_told_again(own: Database) -> None:
    system = System(statuses=[503])
    await _noted(own)
    teller = NoticeTeller(own, Post(), system.webhook(), stationery=STATIONERY)
    await teller.run_once()
    assert await teller.run_once() == 0
    assert len(system.requests) == 1


async def test_what_is_refused_for_good_is_not_told_again(own: Database) -> None:
    post, system = Post(failures=[Undelivered("550", is_final=True)]), System(statuses=[410])
    await _noted(own)
    teller = NoticeTeller(own, post, system.webhook(), stationery=STATIONERY)
    for _ in range(2):
        await teller.run_once()
        await _make_due(own)
    assert (len(post.letters), len(system.requests)) == (1, 1)
    assert await _statuses(own) == {"mail": "failed", "webhook": "failed"}


async def test_after_three_days_of_failing_it_is_given_up(own: Database) -> None:
    system = System(statuses=[500] * 20)
    await _noted(own, channels=(notifications.WEBHOOK,))
    teller = NoticeTeller(own, Post(), system.webhook(), stationery=STATIONERY)
    for _ in range(14):
        await teller.run_once()
        await _make_due(own)
    assert len(system.requests) == 10
    assert await _statuses(own) == {"webhook": "failed"}


async def test_without_an_endpoint_nothing_is_kept_for_one(own: Database) -> None:
    await _noted(own)
    await NoticeTeller(own, Post(), None, stationery=STATIONERY).run_once()
    assert await _statuses(own) == {"mail": "delivered", "webhook": "dropped"}


async def test_a_worker_that_dies_leaves_its_notices_to_the_next(own: Database) -> None:
    """It was told, and nobody knows: so it is told again, and the receiver knows it by its id."""
    told = asyncio.Event()

    class Frozen(Post):
        async def send(self, to: str, letter: Letter, *, message_id: str) -> None:
            self.letters.append((to, letter.subject, message_id))
            told.set()
            await asyncio.Event().wait()

    first, second = Frozen(), Post()
    await _noted(own, channels=(notifications.MAIL,))
    dying = asyncio.create_task(NoticeTeller(own, first, None, stationery=STATIONERY).run_once())
    await told.wait()
    dying.cancel()
    await asyncio.wait([dying])
    survivor = NoticeTeller(own, second, None, stationery=STATIONERY)
    assert await survivor.run_once() == 0  # it may be alive yet
    await _make_due(own)
    assert await survivor.run_once() == 1
    assert first.letters == second.letters
    assert await _statuses(own) == {"mail": "delivered"}


async def test_a_slow_receiver_does_not_hold_the_database(own: Database) -> None:
    during: list[int] = []

    class Watching(Post):
        async def send(self, to: str, letter: Letter, *, message_id: str) -> None:
            async with own.read() as connection:
                open_ones = text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND state = 'idle in transaction'"
                )
                during.append((await connection.execute(open_ones)).scalar_one())
            await super().send(to, letter, message_id=message_id)

    await _noted(own, channels=(notifications.MAIL,))
    await NoticeTeller(own, Watching(), None, stationery=STATIONERY).run_once()
    assert during == [0]


async def _noted(database: Database, channels: tuple[str, ...] = (notifications.MAIL, notifications.WEBHOOK)) -> str:
    """The address of a user who is to be told something."""
    async with database.transaction() as connection:
        user = await a_user(connection)
        await notifications.post(
            connection, user.id, kind="credits.threshold", payload={"percent": 80}, channels=channels
        )
    return user.email


async def _make_due(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE notice_deliveries SET due_at = now()"))


async def _statuses(database: Database) -> dict[str, str]:
    async with database.read() as connection:
        rows = await connection.execute(text("SELECT channel, status FROM notice_deliveries"))
        return {row.channel: row.status for row in rows}
