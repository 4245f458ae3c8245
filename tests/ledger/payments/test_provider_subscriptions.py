"""The provider's state of a subscription applies once, in any order of delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import persons
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.provider_prices import PlanPrice
from gateway.ledger.payments import provider_subscriptions
from gateway.ledger.subscriptions import free_credits, lifecycle, renewals, subscriptions
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.model import SubscriptionStatus as Status
from tests.ledger.make import NOON, a_user
from tests.ledger.subscriptions.test_renewals import GRACE, a_plan, balance, begun, kinds

MONTH = timedelta(days=30)
SECOND = timedelta(seconds=1)


async def order_subscription(connection: AsyncConnection) -> StoredSubscription:
    user = await a_user(connection)
    return await lifecycle.await_payment(
        connection, user.id, plan_id=await a_plan(connection), provider="stripe", now=NOON
    )


async def sync(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    status: Status = Status.ACTIVE,
    *,
    now: datetime = NOON,
    **fields: Any,
) -> StoredSubscription:
    state = {
        "period_start": NOON,
        "period_end": NOON + MONTH,
        "cancel_at_period_end": False,
        "quantity": 1,
        "actor": "provider:stripe",
        "provider_subscription_id": f"sub_{subscription.id.hex}",
        **fields,
    }
    return await provider_subscriptions.sync_from_provider(connection, subscription.id, status=status, now=now, **state)


async def test_paid_period_is_granted_once(connection: AsyncConnection) -> None:
    waiting = await order_subscription(connection)
    synced = [await sync(connection, waiting, now=NOON + number * SECOND) for number in range(3)]
    assert [each.status for each in synced] == [Status.ACTIVE] * 3
    assert await subscriptions.get_by_provider(connection, "stripe", f"sub_{waiting.id.hex}") == synced[-1]
    assert await kinds(connection, waiting.user_id) == [("grant", 100)]


async def test_older_provider_state_is_ignored(connection: AsyncConnection) -> None:
    waiting = await order_subscription(connection)
    synced = await sync(connection, waiting, now=NOON)
    assert await sync(connection, waiting, Status.CANCELED, now=NOON - SECOND) == synced


async def test_provider_subscription_supersedes_the_free_one(connection: AsyncConnection) -> None:
    free = await begun(connection)
    paid = await lifecycle.await_payment(
        connection, free.user_id, plan_id=await a_plan(connection), provider="stripe", now=NOON
    )
    await sync(connection, paid)
    now_current = await subscriptions.get_current(connection, free.user_id)
    before = await subscriptions.get(connection, free.id)
    assert now_current is not None
    assert before is not None
    assert (now_current.id, before.status) == (paid.id, Status.CANCELED)


async def test_unpaid_period_gives_access_during_grace_and_no_credits(
    connection: AsyncConnection,
) -> None:
    waiting = await order_subscription(connection)
    await sync(connection, waiting)
    second: dict[str, Any] = {"period_start": NOON + MONTH, "period_end": NOON + 2 * MONTH}
    unpaid = await sync(connection, waiting, Status.PAST_DUE, now=NOON + MONTH, **second)
    assert unpaid.past_due_since == NOON + MONTH
    again = await sync(connection, waiting, Status.PAST_DUE, now=NOON + MONTH + SECOND, **second)
    assert again.past_due_since == NOON + MONTH
    assert await kinds(connection, waiting.user_id) == [("grant", 100)]
    await renewals.advance(connection, waiting.id, now=NOON + MONTH + GRACE, grace=GRACE)
    assert await subscriptions.get_current(connection, waiting.user_id) is None
    paid = await sync(connection, waiting, now=NOON + MONTH + GRACE + SECOND, **second)
    assert (paid.status, paid.past_due_since) == (Status.ACTIVE, None)
    assert await kinds(connection, waiting.user_id) == [("grant", 100), ("grant", 100)]


async def test_plan_change_at_the_provider_is_prorated_once(connection: AsyncConnection) -> None:
    waiting = await order_subscription(connection)
    await sync(connection, waiting)
    larger = await a_plan(connection, credits_per_period=300)
    for number in range(3):
        await sync(connection, waiting, now=NOON + MONTH / 2 + number * SECOND, price=PlanPrice(larger))
    assert await kinds(connection, waiting.user_id) == [("grant", 100), ("grant", 100)]


async def test_extended_period_keeps_its_credits(
    connection: AsyncConnection,
) -> None:
    waiting = await order_subscription(connection)
    await sync(connection, waiting)
    await sync(connection, waiting, now=NOON + SECOND, period_end=NOON + 2 * MONTH)
    found = await balance(connection, waiting.user_id)
    assert (found.period_end, found.current_credits) == (NOON + 2 * MONTH, 100)


async def test_provider_subscription_is_not_renewed_by_the_clock(connection: AsyncConnection) -> None:
    waiting = await order_subscription(connection)
    await sync(connection, waiting)
    assert await renewals.advance(connection, waiting.id, now=NOON + 5 * MONTH, grace=GRACE) == 0
    await sync(connection, waiting, now=NOON + SECOND, cancel_at_period_end=True)
    assert await renewals.advance(connection, waiting.id, now=NOON + MONTH, grace=GRACE) == 1
    assert await subscriptions.get_current(connection, waiting.user_id) is None


async def test_provider_trial_uses_up_the_accounts_trial(connection: AsyncConnection) -> None:
    waiting = await order_subscription(connection)
    assert not await free_credits.had_trial(connection, waiting.user_id)
    trial = await sync(connection, waiting, Status.TRIALING)
    assert (trial.trial_end, await kinds(connection, waiting.user_id)) == (NOON + MONTH, [("grant", 100)])
    assert await free_credits.had_trial(connection, waiting.user_id)
    second = await lifecycle.await_payment(
        connection, waiting.user_id, plan_id=waiting.plan_id, provider="stripe", now=NOON
    )
    again = await sync(connection, second, Status.TRIALING, now=NOON + SECOND)
    assert (again.status, again.trial_start) == (Status.TRIALING, None)
    assert await kinds(connection, waiting.user_id) == [("grant", 100)]


async def test_second_account_of_a_person_gets_no_second_trial_by_a_checkout_that_was_open(
    connection: AsyncConnection,
) -> None:
    first, second = await order_subscription(connection), await order_subscription(connection)
    for each in (first, second):
        await persons.remember(connection, each.user_id, b"the same person".ljust(32), is_proven=True)
    for _ in range(2):
        await sync(connection, first, Status.TRIALING)
        await sync(connection, second, Status.TRIALING)
    assert await kinds(connection, first.user_id) == [("grant", 100)]
    assert await kinds(connection, second.user_id) == []


@pytest.mark.parametrize("statuses", [[Status.ACTIVE] * 3, [Status.PAST_DUE, Status.ACTIVE]])
async def test_plan_of_another_interval_at_the_provider_takes_the_rest_of_the_old_credits_once(
    connection: AsyncConnection, statuses: list[Status]
) -> None:
    waiting = await order_subscription(connection)
    await sync(connection, waiting)
    yearly, half = await a_plan(connection, credits_per_period=1200, billing_interval="year"), NOON + MONTH / 2
    period: dict[str, Any] = {"period_start": half, "period_end": half + 12 * MONTH}
    for number, status in enumerate(statuses):
        await sync(connection, waiting, status, now=half + number * SECOND, price=PlanPrice(yearly), **period)
    assert (await balance(connection, waiting.user_id)).current_credits == 50 + 1200


async def test_other_plan_is_prorated_from_the_credits_that_the_period_was_given(connection: AsyncConnection) -> None:
    mine, large = await order_subscription(connection), await a_plan(connection, credits_per_period=200)
    await sync(connection, mine)
    plan = await plans.get(connection, mine.plan_id)
    assert plan is not None
    await plans.change(connection, plan.id, replace(plan.terms, credits_per_period=1000))
    await sync(connection, mine, now=NOON + SECOND)
    assert await kinds(connection, mine.user_id) == [("grant", 100)], "the other credits come with the next period"
    for number in range(2):
        await sync(connection, mine, now=NOON + MONTH / 2 + number * SECOND, price=PlanPrice(large))
    assert await kinds(connection, mine.user_id) == [("grant", 100), ("grant", 50)]
