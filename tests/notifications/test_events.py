"""Every event that the product writes is documented, with the fields that it has."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.accounts import api_keys
from gateway.ledger.db import notifications
from gateway.notifications.events import EVENTS, markdown
from policies.billing import news
from tests.ledger.make import a_fingerprint, a_key, a_user, list_notifications
from tests.notifications.mails import MAILS

ROOT = Path(__file__).parents[2]


def test_event_reference_is_what_the_table_says() -> None:
    assert (ROOT / "docs/reference/events.md").read_text("utf-8") == markdown(), "run `make reference`"


def test_mails_are_those_of_the_table() -> None:
    assert {kind for kind, event in EVENTS.items() if event.is_mailed} == MAILS.keys()
    billing = {kind for kind, event in EVENTS.items() if event.is_mailed and kind.startswith(("subscription.", "pay"))}
    assert billing == news.MAILED


async def test_operator_is_told_of_keys(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    key = await a_key(connection, user.id)
    rotated_at, grace = now(), timedelta(hours=1)
    _, successor = await api_keys.rotate(connection, key.id, fingerprint=a_fingerprint(), now=rotated_at, grace=grace)
    for _ in range(2):
        await api_keys.revoke(connection, successor.id)
    told = await list_notifications(connection, user.id)  # which compares the fields with the table
    assert [kind for kind, _ in told] == ["key.created", "key.rotated", "key.revoked"]
    assert (told[1][1]["key_id"], told[1][1]["rotated_from"]) == (str(successor.id), str(key.id))
    leased = await notifications.lease(connection, limit=10, lease_seconds=60)
    assert {each.channel for each in leased} == {notifications.WEBHOOK}
