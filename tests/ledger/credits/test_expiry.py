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


@pytest.mark.parametrize(
    ("left", "next_grant", "lasting"), [(100, 0, 0), (60, 0, 0), (60, 100, 40), (0, 20, 20), (0, 0, 0)]
)
async def test_given_back_credits_end_with_their_grant_but_for_those_that_others_paid_for(
    connection: AsyncConnection, left: int, next_grant: int, lasting: int
) -> None:
    """Of 100 credits `left` are unused when all are taken; a next grant pays the debt before they are given back."""
    user = await a_user(connection)
    terms = {"source": "plan", "reason": "x", "actor": "test", "effective_at": NOON}
    taken = await grants.grant(connection, user.id, amount=100, expires_at=NOON + DAY, **terms)  # type: ignore[arg-type] # as above
    assert taken.grant_id is not None
    if left < 100:
        await grants.adjust(connection, user.id, amount=left - 100, reason="as if used", actor="test")
    await grants.claw_back(connection, taken.grant_id, amount=100, reason="dispute", actor="test")
    if next_grant:
        await grants.grant(connection, user.id, amount=next_grant, expires_at=NOON + DAY, **terms)  # type: ignore[arg-type] # as above
    entry = await grants.give_back(connection, taken.grant_id, amount=500, reason="won", actor="test")
    assert entry is not None
    assert (entry.kind, entry.amount, entry.balance_after) == ("adjustment", 100, left + next_grant)
    assert await grants.give_back(connection, taken.grant_id, amount=1, reason="again", actor="test") is None
    await expiry.apply_due(connection, user.id, now=NOON + DAY, grace=GRACE)
    assert (await balance(connection, user.id)).current_credits == lasting
    assert sum(each.remaining for each in await grants.list_open_grants(connection, user.id)) == lasting


async def test_credits_that_were_given_back_can_be_taken_back_whole(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    bought = await grants.grant(connection, user.id, amount=100, source="purchase", reason="pack", actor="test")
    assert bought.grant_id is not None
    purchased = []
    for take, amount in ((True, 30), (False, 30), (True, 100), (False, 100), (False, 1)):
        change = grants.claw_back if take else grants.give_back
        await change(connection, bought.grant_id, amount=amount, reason="a refund, or one that failed", actor="test")
        found = await balance(connection, user.id)
        assert found.current_credits == found.total_credits_purchased
        purchased.append(found.total_credits_purchased)
    assert purchased == [70, 100, 0, 100, 100]


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
