"""Notifications are delivered at least once, under one id, until accepted or given up."""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier

from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database
from gateway.notifications import DeliveryFailed
from gateway.notifications.email_templates import Email, TemplateContext
from gateway.notifications.webhook import Webhook
from gateway.workers.notifications import BATCH, NotificationSender
from tests.ledger.make import a_user

OLD, NEW = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8
CONTEXT = TemplateContext(secret="secret")


@dataclass
class RecordingMailer:
    """A mailer that records e-mails and raises the given failures first."""

    emails: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[DeliveryFailed] = field(default_factory=list)

    async def send(self, to: str, email: Email, *, message_id: str) -> None:
        self.emails.append((to, email.subject, message_id))
        if self.failures:
            raise self.failures.pop(0)


@dataclass
class OperatorSystem:
    """The operator's endpoint: answers with the given statuses, then with 204."""

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


async def test_notification_is_mailed_and_posted_once(own: Database) -> None:
    mailer, system = RecordingMailer(), OperatorSystem()
    email = await _enqueued(own)
    sender = NotificationSender(own, mailer, system.webhook(), context=CONTEXT)
    assert await sender.run_once() == 2
    assert await sender.run_once() == 0
    assert [(to, subject) for to, subject, _ in mailer.emails] == [(email, "Credits: threshold")]
    assert len(system.requests) == 1
    assert await _statuses(own) == {"mail": "delivered", "webhook": "delivered"}


async def test_webhook_verifies_by_either_secret_while_one_is_replaced(own: Database) -> None:
    system = OperatorSystem()
    await _enqueued(own)
    await NotificationSender(own, RecordingMailer(), system.webhook(NEW, OLD), context=CONTEXT).run_once()
    (request,) = system.requests
    for secret in (OLD, NEW):
        told: dict[str, Any] = Verifier(secret).verify(request.content, dict(request.headers))
    assert told["type"] == "credits.threshold"
    assert told["data"]["percent"] == 80
    assert told["data"].keys() == {"user_id", "percent"}
    with pytest.raises(Exception, match="No matching signature"):
        Verifier("whsec_" + "eHh4" * 8).verify(request.content, dict(request.headers))


async def test_webhook_signature_is_the_hmac_of_id_time_and_body(own: Database) -> None:
    system = OperatorSystem()
    await _enqueued(own)
    await NotificationSender(own, RecordingMailer(), system.webhook("no base64!", NEW), context=CONTEXT).run_once()
    (request,) = system.requests
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.content
    digests = [hmac.digest(key, signed, "sha256") for key in (b"no base64!", b64decode(NEW.removeprefix("whsec_")))]
    expected = " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests)
    assert request.headers["webhook-signature"] == expected


async def test_body_of_a_response_is_not_read(own: Database) -> None:
    """It may have no end, or not be what its fields say."""

    async def unread() -> AsyncIterator[bytes]:
        pytest.fail("the body is read")
        yield b""

    def accept(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=unread())

    await _enqueued(own, channels=(notifications.WEBHOOK,))
    async with httpx.AsyncClient(transport=httpx.MockTransport(accept)) as http:
        webhook = Webhook("https://operator.test/hooks", (NEW,), http)
        await NotificationSender(own, RecordingMailer(), webhook, context=CONTEXT).run_once()
    assert await _statuses(own) == {"webhook": "delivered"}


async def test_failed_delivery_is_retried_under_the_same_id(own: Database) -> None:
    mailer, system = RecordingMailer(failures=[DeliveryFailed("away")]), OperatorSystem(statuses=[500, 302])
    await _enqueued(own)
    sender = NotificationSender(own, mailer, system.webhook(), context=CONTEXT)
    for _ in range(4):
        await sender.run_once()
        await _make_due(own)
    assert len(mailer.emails) == 2
    assert len({message_id for _, _, message_id in mailer.emails}) == 1
    assert len(system.requests) == 3
    assert len({request.headers["webhook-id"] for request in system.requests}) == 1
    assert await _statuses(own) == {"mail": "delivered", "webhook": "delivered"}


async def test_failed_delivery_waits_before_its_retry(own: Database) -> None:
    system = OperatorSystem(statuses=[503])
    await _enqueued(own)
    sender = NotificationSender(own, RecordingMailer(), system.webhook(), context=CONTEXT)
    await sender.run_once()
    assert await sender.run_once() == 0
    assert len(system.requests) == 1


async def test_final_refusal_is_not_retried(own: Database) -> None:
    mailer, system = RecordingMailer(failures=[DeliveryFailed("550", is_final=True)]), OperatorSystem(statuses=[410])
    await _enqueued(own)
    sender = NotificationSender(own, mailer, system.webhook(), context=CONTEXT)
    for _ in range(2):
        await sender.run_once()
        await _make_due(own)
    assert (len(mailer.emails), len(system.requests)) == (1, 1)
    assert await _statuses(own) == {"mail": "failed", "webhook": "failed"}


async def test_delivery_is_given_up_after_three_days(own: Database) -> None:
    system = OperatorSystem(statuses=[500] * 20)
    await _enqueued(own, channels=(notifications.WEBHOOK,))
    sender = NotificationSender(own, RecordingMailer(), system.webhook(), context=CONTEXT)
    for _ in range(14):
        await sender.run_once()
        await _make_due(own)
    assert len(system.requests) == 10
    assert await _statuses(own) == {"webhook": "failed"}


async def test_mail_does_not_wait_for_a_webhook_endpoint_that_hangs(own: Database) -> None:
    hanging = asyncio.Event()

    async def hang(_: httpx.Request) -> httpx.Response:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError

    for _ in range(BATCH + 5):
        await _enqueued(own, channels=(notifications.WEBHOOK,))
    email = await _enqueued(own, channels=(notifications.MAIL,))
    mailer, http = RecordingMailer(), httpx.AsyncClient(transport=httpx.MockTransport(hang))
    webhook = Webhook("https://operator.test/hooks", (NEW,), http)
    of_mail, of_webhook = (
        NotificationSender(own, mailer, webhook, context=CONTEXT, channels=(channel,))
        for channel in ("mail", "webhook")
    )
    posting = asyncio.create_task(of_webhook.run_once())
    await hanging.wait()
    assert await of_mail.run_once() == 1
    assert [to for to, _, _ in mailer.emails] == [email]
    assert not posting.done()
    posting.cancel()
    await asyncio.wait([posting])


async def test_delivery_that_raises_what_nobody_foresaw_is_given_up_and_counted(own: Database) -> None:
    class Broken(RecordingMailer):
        async def send(self, to: str, email: Email, *, message_id: str) -> None:
            await super().send(to, email, message_id=message_id)
            raise UnicodeError("label too long")

    mailer, before = Broken(), _counted("mail", "failed")
    await _enqueued(own)
    sender = NotificationSender(own, mailer, OperatorSystem().webhook(), context=CONTEXT)
    for _ in range(14):
        await sender.run_once()
        await _make_due(own)
    assert len(mailer.emails) == 10
    assert await _statuses(own) == {"mail": "failed", "webhook": "delivered"}
    assert await _errors(own) == {"mail": "UnicodeError: label too long", "webhook": None}
    assert _counted("mail", "failed") == before + 1


async def test_delivery_that_ends_its_process_each_time_is_given_up(own: Database) -> None:
    mailer = RecordingMailer()
    await _enqueued(own, channels=(notifications.MAIL,))
    for _ in range(20):
        async with own.transaction() as connection:
            assert len(await notifications.lease(connection, limit=1, lease_seconds=0)) == 1
    await NotificationSender(own, mailer, None, context=CONTEXT).run_once()
    assert mailer.emails == []
    assert await _statuses(own) == {"mail": "failed"}


@pytest.mark.parametrize("reason", ["with a \0 in it", "\udcff from Latin 1", "\ud800", "long " * 10_000])
async def test_reason_that_the_database_does_not_take_is_marked(own: Database, reason: str) -> None:
    mailer = RecordingMailer(failures=[DeliveryFailed(reason, is_final=True)])
    await _enqueued(own, channels=(notifications.MAIL,))
    assert await NotificationSender(own, mailer, None, context=CONTEXT).run_once() == 1
    assert await _statuses(own) == {"mail": "failed"}
    assert len((await _errors(own))["mail"] or "") <= 500


async def test_delivery_without_an_endpoint_is_dropped(own: Database) -> None:
    await _enqueued(own)
    await NotificationSender(own, RecordingMailer(), None, context=CONTEXT).run_once()
    assert await _statuses(own) == {"mail": "delivered", "webhook": "dropped"}


async def test_delivery_of_a_dead_worker_is_sent_by_the_next(own: Database) -> None:
    """The first attempt was sent but not marked, so the second has the same id."""
    told = asyncio.Event()

    class Frozen(RecordingMailer):
        async def send(self, to: str, email: Email, *, message_id: str) -> None:
            self.emails.append((to, email.subject, message_id))
            told.set()
            await asyncio.Event().wait()

    first, second = Frozen(), RecordingMailer()
    await _enqueued(own, channels=(notifications.MAIL,))
    dying = asyncio.create_task(NotificationSender(own, first, None, context=CONTEXT).run_once())
    await told.wait()
    dying.cancel()
    await asyncio.wait([dying])
    survivor = NotificationSender(own, second, None, context=CONTEXT)
    assert await survivor.run_once() == 0  # the lease has not ended
    await _make_due(own)
    assert await survivor.run_once() == 1
    assert first.emails == second.emails
    assert await _statuses(own) == {"mail": "delivered"}


async def test_slow_receiver_holds_no_transaction(own: Database) -> None:
    during: list[int] = []

    class Watching(RecordingMailer):
        async def send(self, to: str, email: Email, *, message_id: str) -> None:
            async with own.read() as connection:
                open_ones = text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND state = 'idle in transaction'"
                )
                during.append((await connection.execute(open_ones)).scalar_one())
            await super().send(to, email, message_id=message_id)

    await _enqueued(own, channels=(notifications.MAIL,))
    await NotificationSender(own, Watching(), None, context=CONTEXT).run_once()
    assert during == [0]


async def _enqueued(database: Database, channels: tuple[str, ...] = (notifications.MAIL, notifications.WEBHOOK)) -> str:
    """Enqueues a notification; gives the user's address."""
    async with database.transaction() as connection:
        user = await a_user(connection)
        await notifications.enqueue(
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


async def _errors(database: Database) -> dict[str, str | None]:
    async with database.read() as connection:
        rows = await connection.execute(text("SELECT channel, error FROM notice_deliveries"))
        return {row.channel: row.error for row in rows}


def _counted(channel: str, result: str) -> float:
    labels = {"channel": channel, "result": result}
    return REGISTRY.get_sample_value("gateway_notification_deliveries_total", labels) or 0.0
