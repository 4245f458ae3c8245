"""Grants start and expire on time, in the ledger too; claw-backs take credits once."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits import expiry, grants
from gateway.ledger.db.errors import NotFound
from tests.ledger.make import NOON, a_user
from tests.ledger.subscriptions.test_renewals import balance, kinds

DAY = timedelta(days=1)
GRACE = timedelta(days=3)


async def test_expiry_takes_the_rest_of_a_grant_and_records_it(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    given = {"source": "promo", "reason": "x", "actor": "test", "effective_at": NOON}
    await grants.grant(connection, user.id, amount=10, expires_at=NOON + DAY, **given)  # type: ignore[arg-type] # as above
    await grants.grant(connection, user.id, amount=5, **given)  # type: ignore[arg-type] # as above
    await grants.adjust(connection, user.id, amount=-4, reason="x", actor="test")
    assert await expiry.apply_due(connection, user.id, now=NOON + DAY - timedelta(microseconds=1), grace=GRACE) == 0
    assert await expiry.apply_due(connection, user.id, now=NOON + DAY, grace=GRACE) == 1
    assert await expiry.apply_due(connection, user.id, now=NOON + DAY, grace=GRACE) == 0
    found = await balance(connection, user.id)
    assert (found.current_credits, found.total_credits_expired, found.credit_seq) == (5, 6, 4)


async def test_scheduled_grant_is_in_no_balance_before_its_time(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    planned = await _scheduled(connection, user.id, begins=NOON + DAY, ends=NOON + 9 * DAY)
    assert await grants.list_scheduled_grants(connection, user.id) == (planned,)
    assert (await balance(connection, user.id)).current_credits == 0
    assert await expiry.list_due_accounts(connection, now=NOON, grace=GRACE, limit=9) == ()
    assert await expiry.list_due_accounts(connection, now=NOON + DAY, grace=GRACE, limit=9) == (user.id,)
    assert await expiry.apply_due(connection, user.id, now=NOON + DAY, grace=GRACE) == 1
    found = await balance(connection, user.id)
    assert (found.current_credits, found.total_credits_purchased) == (50, 50)
    assert await grants.list_scheduled_grants(connection, user.id) == ()


async def test_grant_whose_time_was_missed_is_started_and_expired(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await _scheduled(connection, user.id, begins=NOON + DAY, ends=NOON + 2 * DAY)
    assert await expiry.apply_due(connection, user.id, now=NOON + 40 * DAY, grace=GRACE) == 2
    assert await kinds(connection, user.id) == [("grant", 50), ("expiry", -50)]


async def test_claw_back_takes_its_own_grant_first_and_the_rest_is_debt(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await grants.grant(connection, user.id, amount=20, source="plan", reason="x", actor="test")
    bought = await grants.grant(connection, user.id, amount=100, source="purchase", reason="pack", actor="test")
    assert bought.grant_id is not None
    await grants.adjust(connection, user.id, amount=-60, reason="as if used", actor="test")
    entry = await grants.claw_back(connection, bought.grant_id, amount=70, reason="refund", actor="test")
    assert entry is not None
    assert (entry.kind, entry.amount, entry.balance_after) == ("clawback", -70, -10)
    assert entry.metadata == {"of_grant": 60, "debt": 10}
    rest = await grants.claw_back(connection, bought.grant_id, amount=70, reason="refund", actor="test")
    assert rest is not None
    assert rest.amount == -30
    assert await grants.claw_back(connection, bought.grant_id, amount=70, reason="again", actor="test") is None
    await grants.grant(connection, user.id, amount=50, source="promo", reason="x", actor="test")
    assert (await balance(connection, user.id)).current_credits == 10


async def test_claw_back_does_not_take_expired_credits(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    bought = await grants.grant(
        connection,
        user.id,
        amount=100,
        source="purchase",
        reason="pack",
        actor="test",
        effective_at=NOON,
        expires_at=NOON + DAY,
    )
    assert bought.grant_id is not None
    await grants.adjust(connection, user.id, amount=-30, reason="as if used", actor="test")
    await expiry.apply_due(connection, user.id, now=NOON + DAY, grace=GRACE)
    entry = await grants.claw_back(connection, bought.grant_id, amount=100, reason="refund", actor="test")
    assert entry is not None
    assert entry.amount == -30


async def test_claw_back_cancels_a_scheduled_grant(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    planned = await _scheduled(connection, user.id, begins=NOON + DAY, ends=None)
    for amount, left in ((20, [30]), (30, []), (5, [])):
        assert await grants.claw_back(connection, planned.id, amount=amount, reason="refund", actor="test") is None
        assert [grant.amount for grant in await grants.list_scheduled_grants(connection, user.id)] == left
    assert await expiry.apply_due(connection, user.id, now=NOON + 9 * DAY, grace=GRACE) == 0
    assert await kinds(connection, user.id) == []
    with pytest.raises(NotFound):
        await grants.claw_back(connection, uuid4(), amount=1, reason="refund", actor="test")


async def _scheduled(
    connection: AsyncConnection, user_id: object, *, begins: datetime, ends: datetime | None
) -> grants.Grant:
    return await grants.schedule(
        connection,
        user_id,  # type: ignore[arg-type] # the id of a user
        amount=50,
        source="purchase",
        reason="pack",
        actor="test",
        effective_at=begins,
        expires_at=ends,
    )
