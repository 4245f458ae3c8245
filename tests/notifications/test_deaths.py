"""Every mail and event arrives under one id, however often the process that sends them is killed on the way.

A process that dies between the server's reply and its own commit has sent what it does not know of, and the next one
sends it again: no protocol between two parties can tell better. The Message-ID and the webhook-id are the same then, by
which receivers drop it, as those of Standard Webhooks do.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections import Counter
from uuid import UUID

from sqlalchemy import text

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database
from tests.notifications.mails import MAILS
from tests.notifications.receivers import Endpoint, Postbox, Victim, endpoint, postbox
from tests.notifications.sending import SECRET, deliver
from tests.support.sampling import IS_FULL

STEPS = ("mail begun", "mail accepted", "event received", "unmarked")
DEATHS = STEPS if IS_FULL else STEPS[1:3]
PATIENCE_SECONDS = 60.0
_forks = multiprocessing.get_context("forkserver")


async def test_each_mail_and_event_arrives_under_one_id_whatever_dies_when(own_database_url: str) -> None:
    database = Database(own_database_url)
    kinds = await _enqueue(database)
    victim = Victim()
    with postbox(victim) as box:
        async with endpoint(victim, SECRET) as hooks:
            for death in DEATHS:
                assert await _run(own_database_url, box, hooks, victim, step=death) in (-signal.SIGKILL, 9), death
                await _make_due(database)
            assert await _run(own_database_url, box, hooks, victim, step=None) == 0
    async with database.read() as connection:
        rows = await connection.execute(text("SELECT status, count(*) FROM notice_deliveries GROUP BY 1"))
        assert {row[0]: row[1] for row in rows} == {"delivered": 2 * len(kinds)}
    await database.close()
    sent = Counter(str(each["Message-ID"]) for each in box.emails)
    assert sent.keys() == {f"<{each}@acme.test>" for each in kinds}
    assert {UUID(each) for each in hooks.events} == kinds.keys()
    assert {each: event["type"] for each, event in hooks.events.items()} == {str(k): v for k, v in kinds.items()}
    # What no death has met was sent once.
    assert min(sent.values()) == min(hooks.posts.values()) == 1
    for each in box.emails:
        assert (each["To"], each["From"]) == ("ada@example.com", "Acme <hello@acme.test>")
        assert each["Date"]
        assert [part.get_content_type() for part in each.iter_parts()] == ["text/plain", "text/html"]
        html = each.get_body(("html",))
        assert html is not None
        assert str(each["Subject"]) in html.get_content()


async def _enqueue(database: Database) -> dict[UUID, str]:
    """A notification of each kind of mail; gives their kinds by id."""
    async with database.transaction() as connection:
        ada = await users.create(connection, "ada@example.com", name="Ada", email_verified_at=now())
        for kind, payload in MAILS.items():
            await notifications.enqueue(connection, ada.id, kind=kind, payload=payload)
        rows = await connection.execute(text("SELECT id, kind FROM notices"))
        return {row.id: row.kind for row in rows}


async def _run(url: str, box: Postbox, hooks: Endpoint, victim: Victim, *, step: str | None) -> int | None:
    """A process that delivers all that is due, or is killed at the step; gives how it ended."""
    options = {"dies_unmarked": step == "unmarked"}
    process = _forks.Process(target=deliver, args=(url, box.url, hooks.url), kwargs=options)
    victim.step = step
    await asyncio.to_thread(process.start)
    victim.pid = process.pid
    await asyncio.to_thread(process.join, PATIENCE_SECONDS)
    return process.exitcode


async def _make_due(database: Database) -> None:
    """As when the leases of the dead have ended."""
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE notice_deliveries SET due_at = now() WHERE status = 'pending'"))
