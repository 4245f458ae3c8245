"""Subscriptions start with a period and its credits; an account has one current subscription."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.credits.grants import get_balance, list_open_grants
from gateway.ledger.db.errors import AlreadyExists, NotFound
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.subscriptions.subscriptions import IllegalTransition
from policies.billing.periods import Interval
from policies.model import SubscriptionStatus
from tests.ledger.make import NOON, a_user


async def _plan(
    connection: AsyncConnection, *, interval: Interval = "month", count: int = 1, rollover: bool = False
) -> StoredPlan:
    terms = PlanTerms(
        name=uuid4().hex,
        price=Decimal(1),
        billing_interval=interval,
        billing_interval_count=count,
        credits_per_period=100,
        credits_rollover=rollover,
    )
    return await plans.create(connection, terms)


@pytest.mark.parametrize(
    ("interval", "count", "begins", "ends"),
    [
        ("day", 10, datetime(2026, 2, 25, tzinfo=UTC), datetime(2026, 3, 7, tzinfo=UTC)),
        ("week", 2, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 15, tzinfo=UTC)),
        ("month", 1, datetime(2026, 1, 31, 8, tzinfo=UTC), datetime(2026, 2, 28, 8, tzinfo=UTC)),
        ("month", 3, datetime(2026, 11, 30, tzinfo=UTC), datetime(2027, 2, 28, tzinfo=UTC)),
        ("year", 1, datetime(2028, 2, 29, tzinfo=UTC), datetime(2029, 2, 28, tzinfo=UTC)),
    ],
)
async def test_period_ends_by_the_calendar(
    connection: AsyncConnection, interval: Interval, count: int, begins: datetime, ends: datetime
) -> None:
    plan = await _plan(connection, interval=interval, count=count)
    begun = await lifecycle.start(connection, (await a_user(connection)).id, plan_id=plan.id, now=begins)
    assert (begun.current_period_start, begun.current_period_end) == (begins, ends)


async def test_start_grants_the_periods_credits_until_its_end(connection: AsyncConnection) -> None:
    user, plan = await a_user(connection), await _plan(connection)
    begun = await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    assert (begun.status, begun.plan_version) == (SubscriptionStatus.ACTIVE, 1)
    found = await get_balance(connection, user.id)
    assert found is not None
    assert (found.current_credits, found.subscription_id, found.credit_seq) == (100, begun.id, 1)
    assert (found.period_start, found.period_end) == (NOON, begun.current_period_end)
    assert (found.last_credit_refill, found.next_credit_refill) == (NOON, begun.current_period_end)
    (grant,) = await list_open_grants(connection, user.id)
    assert (grant.source, grant.amount, grant.expires_at) == ("plan", 100, begun.current_period_end)


async def test_rollover_credits_do_not_expire(connection: AsyncConnection) -> None:
    user, plan = await a_user(connection), await _plan(connection, rollover=True)
    await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    assert [grant.expires_at for grant in await list_open_grants(connection, user.id)] == [None]


async def test_second_current_subscription_is_refused_without_credits(connection: AsyncConnection) -> None:
    user, plan = await a_user(connection), await _plan(connection)
    first = await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    with pytest.raises(AlreadyExists, match="uq_subscriptions_current"):
        await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    assert await subscriptions.get_current(connection, user.id) == first
    assert len(await list_open_grants(connection, user.id)) == 1


async def test_cancel_at_period_end_lets_the_period_run(connection: AsyncConnection) -> None:
    user, plan = await a_user(connection), await _plan(connection)
    begun = await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    ending = await lifecycle.cancel(connection, begun.id, now=NOON)
    assert (ending.status, ending.cancel_at_period_end, ending.canceled_at) == (SubscriptionStatus.ACTIVE, True, NOON)
    assert await subscriptions.get_current(connection, user.id) == ending


async def test_cancel_now_allows_another_subscription(connection: AsyncConnection) -> None:
    user, plan = await a_user(connection), await _plan(connection)
    begun = await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)
    ended = await lifecycle.cancel(connection, begun.id, now=NOON, at_period_end=False)
    assert ended.status is SubscriptionStatus.CANCELED
    assert await subscriptions.get_current(connection, user.id) is None
    with pytest.raises(IllegalTransition, match="canceled, so it cannot cancel_at_period_end; nothing changes it"):
        await lifecycle.cancel(connection, begun.id, now=NOON)
    assert await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON)


async def test_unknown_user_plan_or_subscription_is_not_found(connection: AsyncConnection) -> None:
    user, plan = await a_user(connection), await _plan(connection)
    with pytest.raises(NotFound, match="plan"):
        await lifecycle.start(connection, user.id, plan_id="none", now=NOON)
    with pytest.raises(NotFound, match="user"):
        await lifecycle.start(connection, uuid4(), plan_id=plan.id, now=NOON)
    with pytest.raises(NotFound, match="subscription"):
        await lifecycle.cancel(connection, uuid4(), now=NOON)
