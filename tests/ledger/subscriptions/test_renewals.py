"""Renewals apply each period once, however late, and canceled subscriptions end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import expiry, grants, movements, reconciliation
from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.subscriptions import advance_notices, lifecycle, renewals, subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import IllegalTransition, StoredSubscription
from policies.model import SubscriptionStatus as Status
from policies.usage.reconciliation import in_postgresql
from tests.ledger.make import NOON, a_user, list_notifications

GRACE = timedelta(days=3)
JANUARY_31 = datetime(2026, 1, 31, 12, tzinfo=UTC)


async def a_plan(connection: AsyncConnection, **terms: Any) -> str:
    given = {"name": uuid4().hex, "price": Decimal(1), "credits_per_period": 100, **terms}
    return (await plans.create(connection, PlanTerms(**given))).id


async def begun(connection: AsyncConnection, *, now: datetime = NOON, **terms: Any) -> StoredSubscription:
    user = await a_user(connection)
    return await lifecycle.start(connection, user.id, plan_id=await a_plan(connection, **terms), now=now)


async def turned(connection: AsyncConnection, subscription: StoredSubscription, now: datetime) -> StoredSubscription:
    await renewals.advance(connection, subscription.id, now=now, grace=GRACE)
    found = await subscriptions.get(connection, subscription.id)
    assert found is not None
    return found


async def balance(connection: AsyncConnection, user_id: UUID) -> grants.Balance:
    """The balance row, after checking that the account's books agree."""
    assert in_postgresql((await reconciliation.get_books(connection, [user_id]))[user_id]) == ()
    found = await grants.get_balance(connection, user_id)
    assert found is not None
    return found


async def kinds(connection: AsyncConnection, user_id: UUID) -> list[tuple[str, int]]:
    book = (await movements.list_ledger(connection, user_id)).data
    return [(entry.kind, entry.amount) for entry in reversed(book)]


async def test_renewal_starts_the_next_period_with_its_credits(connection: AsyncConnection) -> None:
    first = await begun(connection, now=JANUARY_31)
    assert await renewals.advance(connection, first.id, now=first.current_period_end, grace=GRACE) == 1
    assert await renewals.advance(connection, first.id, now=first.current_period_end, grace=GRACE) == 0
    second = await turned(connection, first, first.current_period_end)
    assert (second.current_period_start, second.current_period_end.day) == (first.current_period_end, 31)
    assert await kinds(connection, first.user_id) == [("grant", 100), ("expiry", -100), ("grant", 100)]
    found = await balance(connection, first.user_id)
    assert (found.current_credits, found.total_credits_expired, found.credits_used_this_period) == (100, 100, 0)
    assert (found.period_start, found.next_credit_refill) == (second.current_period_start, second.current_period_end)


async def test_renewal_after_a_year_of_downtime_grants_each_period_once(connection: AsyncConnection) -> None:
    for rolls_over, left in ((False, 100), (True, 1300)):
        first = await begun(connection, now=JANUARY_31, credits_rollover=rolls_over)
        late = await turned(connection, first, JANUARY_31 + timedelta(days=365))
        assert (late.current_period_start.month, late.current_period_start.day) == (1, 31)
        granted = [amount for kind, amount in await kinds(connection, first.user_id) if kind == "grant"]
        assert granted == [100] * 13
        assert (await balance(connection, first.user_id)).current_credits == left


async def test_purchased_credits_outlive_renewals(connection: AsyncConnection) -> None:
    first = await begun(connection)
    await grants.grant(connection, first.user_id, amount=7, source="purchase", reason="pack", actor="test")
    await turned(connection, first, NOON + timedelta(days=100))
    assert (await balance(connection, first.user_id)).current_credits == 107


async def test_renewal_pays_debt(connection: AsyncConnection) -> None:
    first = await begun(connection)
    await grants.adjust(connection, first.user_id, amount=-130, reason="overdrawn", actor="test")
    await turned(connection, first, first.current_period_end)
    assert (await balance(connection, first.user_id)).current_credits == 70


async def test_canceled_subscription_expires_without_refill(connection: AsyncConnection) -> None:
    first = await begun(connection)
    await lifecycle.cancel(connection, first.id, now=NOON)
    ended = await turned(connection, first, NOON + timedelta(days=90))
    assert (ended.status, ended.canceled_at) == (Status.EXPIRED, NOON)
    await expiry.apply_due(connection, first.user_id, now=NOON + timedelta(days=90), grace=GRACE)
    assert await kinds(connection, first.user_id) == [("grant", 100), ("expiry", -100)]


async def test_trial_is_unique_and_becomes_the_plan(connection: AsyncConnection) -> None:
    user, plan_id = await a_user(connection), await a_plan(connection, credits_rollover=True)
    trial = await lifecycle.start_trial(connection, user.id, plan_id=plan_id, days=14, now=NOON, actor="test")
    assert (trial.status, trial.trial_end) == (Status.TRIALING, NOON + timedelta(days=14))
    after = await turned(connection, trial, NOON + timedelta(days=14))
    assert (after.status, after.current_period_start) == (Status.ACTIVE, trial.trial_end)
    assert await kinds(connection, user.id) == [("grant", 100), ("expiry", -100), ("grant", 100)]
    await lifecycle.cancel(connection, trial.id, now=NOON, at_period_end=False)
    with pytest.raises(AlreadyExists, match="uq_subscriptions_trial"):
        await lifecycle.start_trial(connection, user.id, plan_id=plan_id, days=14, now=NOON, actor="test")


@pytest.mark.parametrize("is_trial", [False, True])
async def test_suspended_account_begins_a_period_when_it_is_reactivated(
    connection: AsyncConnection, is_trial: bool
) -> None:
    user, plan_id, later = await a_user(connection), await a_plan(connection), NOON + timedelta(days=200)
    if is_trial:
        await lifecycle.start_trial(connection, user.id, plan_id=plan_id, days=14, now=NOON, actor="test")
    else:
        await lifecycle.start(connection, user.id, plan_id=plan_id, now=NOON)
    found = await subscriptions.get_current(connection, user.id)
    assert found is not None
    for at in (NOON, later):
        await users.suspend(connection, user.id)
        assert await turned(connection, found, at) == found
        await users.reactivate(connection, user.id)
        await lifecycle.continue_reactivated(connection, user.id, now=at, actor="test")
    again = await turned(connection, found, later)
    assert (again.status, again.current_period_start) == (Status.ACTIVE, later)
    assert [kind for kind, _ in await kinds(connection, user.id)] == ["grant", "grant"]
    await users.suspend(connection, user.id)
    await lifecycle.cancel(connection, again.id, now=later)
    assert (await turned(connection, again, again.current_period_end)).status is Status.EXPIRED


async def test_scheduled_change_applies_with_the_next_period(connection: AsyncConnection) -> None:
    first, weekly = await begun(connection), await a_plan(connection, billing_interval="week", credits_per_period=9)
    await plan_changes.change(connection, first.id, plan_id=weekly, now=NOON, actor="test", at_period_end=True)
    assert (await balance(connection, first.user_id)).current_credits == 100
    after = await turned(connection, first, first.current_period_end)
    assert (after.plan_id, after.next_plan_id) == (weekly, None)
    assert after.current_period_end - after.current_period_start == timedelta(days=7)
    assert (await balance(connection, first.user_id)).current_credits == 9


@pytest.mark.parametrize(
    ("scheduled", "change", "expected"),
    [
        (None, {"quantity": 3}, 3),
        (2, {"quantity": 3}, 2),
        (2, {"quantity": 3, "at_period_end": True}, 3),
        (2, {"at_period_end": True}, 2),
    ],
)
async def test_change_of_seats_leaves_a_scheduled_plan(
    connection: AsyncConnection, scheduled: int | None, change: dict[str, Any], expected: int
) -> None:
    first = await begun(connection)
    other = await a_plan(connection, pricing_model="per_seat")
    wish: dict[str, Any] = {"plan_id": other, "quantity": scheduled, "at_period_end": True}
    await plan_changes.change(connection, first.id, **wish, now=NOON, actor="test")
    changed = (await plan_changes.change(connection, first.id, **change, now=NOON, actor="test")).subscription
    assert (changed.next_plan_id, changed.next_quantity) == (other, expected)
    after = await turned(connection, first, first.current_period_end)
    assert (after.plan_id, after.quantity, after.next_plan_id) == (other, expected, None)


async def test_change_of_seats_leaves_a_scheduled_plan_without_seats(connection: AsyncConnection) -> None:
    first, flat = await begun(connection), await a_plan(connection)
    await plan_changes.change(connection, first.id, plan_id=flat, now=NOON, actor="test", at_period_end=True)
    changed = (await plan_changes.change(connection, first.id, quantity=3, now=NOON, actor="test")).subscription
    assert (changed.quantity, changed.next_plan_id, changed.next_quantity) == (3, flat, 1)


@pytest.mark.parametrize("at_period_end", [False, True])
async def test_its_own_plan_takes_the_place_of_a_scheduled_one(
    connection: AsyncConnection, at_period_end: bool
) -> None:
    first, other = await begun(connection), await a_plan(connection)
    for plan_id, waits in ((other, True), (first.plan_id, at_period_end)):
        done = await plan_changes.change(
            connection, first.id, plan_id=plan_id, now=NOON, actor="test", at_period_end=waits
        )
    assert (done.subscription.next_plan_id, done.subscription.next_quantity) == (None, None)


async def test_upgrade_and_downgrade_create_no_credits(connection: AsyncConnection) -> None:
    first = await begun(connection)
    small, large = first.plan_id, await a_plan(connection, credits_per_period=1100)
    half = NOON + (first.current_period_end - NOON) / 2
    up = await plan_changes.change(connection, first.id, plan_id=large, now=half, actor="test")
    assert (up.credits, (await balance(connection, first.user_id)).current_credits) == (500, 600)
    await grants.adjust(connection, first.user_id, amount=-550, reason="as if used", actor="test")
    await grants.grant(connection, first.user_id, amount=40, source="purchase", reason="pack", actor="test")
    down = await plan_changes.change(connection, first.id, plan_id=small, now=half, actor="test")
    # What was used of the larger plan is owed: from the pack, and then as a debt.
    assert (down.credits, (await balance(connection, first.user_id)).current_credits) == (-500, -410)
    again = await plan_changes.change(connection, first.id, plan_id=large, now=half, actor="test")
    assert (again.credits, (await balance(connection, first.user_id)).current_credits) == (500, 90)


async def test_other_plan_is_prorated_from_the_credits_that_the_period_was_given(connection: AsyncConnection) -> None:
    first, large = await begun(connection), await a_plan(connection, credits_per_period=200)
    plan = await plan_of(connection, first)
    await plans.change(connection, plan.id, replace(plan.terms, credits_per_period=1000))
    half = first.current_period_start + (first.current_period_end - first.current_period_start) / 2
    up = await plan_changes.change(connection, first.id, plan_id=large, now=half, actor="test")
    assert (up.credits, (await balance(connection, first.user_id)).current_credits) == (50, 150)
    back = await plan_changes.change(connection, first.id, plan_id=plan.id, now=half, actor="test")
    assert (back.credits, (await balance(connection, first.user_id)).current_credits) == (400, 550)
    next_period = await turned(connection, back.subscription, first.current_period_end)
    assert (await balance(connection, next_period.user_id)).current_credits == 1000


async def test_seats_of_a_plan_with_other_credits_since_count_for_themselves(connection: AsyncConnection) -> None:
    first = await begun(connection, pricing_model="per_seat")
    plan = await plan_of(connection, first)
    await plans.change(connection, plan.id, replace(plan.terms, credits_per_period=1000))
    half = first.current_period_start + (first.current_period_end - first.current_period_start) / 2
    more = await plan_changes.change(connection, first.id, quantity=2, now=half, actor="test")
    other = await a_plan(connection, credits_per_period=100)
    less = await plan_changes.change(connection, first.id, plan_id=other, quantity=1, now=half, actor="test")
    assert (more.credits, less.credits) == (500, -500)


async def test_pause_stops_periods_and_resume_starts_one(connection: AsyncConnection) -> None:
    first = await begun(connection)
    await lifecycle.pause(connection, first.id)
    later = NOON + timedelta(days=200)
    assert (await turned(connection, first, later)).status is Status.PAUSED
    resumed = await lifecycle.resume(connection, first.id, now=later, actor="test")
    assert (resumed.status, resumed.current_period_start) == (Status.ACTIVE, later)
    with pytest.raises(IllegalTransition):
        await lifecycle.resume(connection, first.id, now=later, actor="test")


async def test_periods_follow_the_accounts_time_zone(connection: AsyncConnection) -> None:
    user = await users.create(connection, f"{uuid4().hex}@example.com", time_zone="Europe/Berlin")
    noon_in_winter = datetime(2026, 3, 1, 11, tzinfo=UTC)
    first = await lifecycle.start(connection, user.id, plan_id=await a_plan(connection), now=noon_in_winter)
    assert first.current_period_end == datetime(2026, 4, 1, 10, tzinfo=UTC)


async def test_abandoned_checkout_expires_within_a_day(connection: AsyncConnection) -> None:
    user, plan_id = await a_user(connection), await a_plan(connection)
    ordered: dict[str, Any] = {"plan_id": plan_id, "provider": "stripe"}
    waiting = await lifecycle.await_payment(connection, user.id, **ordered, now=NOON)
    again = await lifecycle.await_payment(connection, user.id, **ordered, now=NOON + timedelta(hours=5))
    assert again.id == waiting.id
    assert (await turned(connection, waiting, NOON + timedelta(hours=28))).status is Status.INCOMPLETE
    assert (await turned(connection, waiting, NOON + timedelta(hours=29))).status is Status.EXPIRED
    assert await kinds(connection, user.id) == []


async def test_only_due_subscriptions_are_found(connection: AsyncConnection) -> None:
    due, running, ended = [await begun(connection, now=NOON - timedelta(days=days)) for days in (40, 3, 40)]
    await lifecycle.cancel(connection, ended.id, now=NOON, at_period_end=False)
    found = {each.subscription_id for each in await renewals.find_due(connection, now=NOON, grace=GRACE, limit=100)}
    assert due.id in found
    assert not found & {running.id, ended.id}


async def test_ledger_rows_cannot_be_changed(connection: AsyncConnection) -> None:
    first = await begun(connection)
    for rewrite in ("UPDATE credit_ledger SET amount = 1", "DELETE FROM credit_ledger"):
        with pytest.raises(Exception, match="append-only"):
            async with connection.begin_nested():
                await connection.execute(text(rewrite))
    assert await kinds(connection, first.user_id) == [("grant", 100)]


async def test_paused_subscription_that_was_to_end_begins_no_period_once_that_is_over(
    connection: AsyncConnection,
) -> None:
    mine = await begun(connection)
    await lifecycle.pause(connection, mine.id)
    await lifecycle.cancel(connection, mine.id, now=NOON)
    before_its_end = mine.current_period_end - timedelta(hours=1)
    resumed = await lifecycle.resume(connection, mine.id, now=before_its_end, actor="test")
    assert (resumed.status, resumed.cancel_at_period_end) == (Status.ACTIVE, True)
    other = await begun(connection)
    await lifecycle.pause(connection, other.id)
    await lifecycle.cancel(connection, other.id, now=NOON)
    with pytest.raises(IllegalTransition, match="is expired, so it cannot resume"):
        await lifecycle.resume(connection, other.id, now=other.current_period_end, actor="test")
    assert (await turned(connection, other, other.current_period_end)).status is Status.EXPIRED
    assert await kinds(connection, other.user_id) == [("grant", 100)]


@pytest.mark.parametrize("subscribers", ["keep", None])
@pytest.mark.parametrize("at_period_end", [False, True])
async def test_seats_of_a_former_version_change_within_its_interval(
    connection: AsyncConnection, subscribers: Literal["keep"] | None, *, at_period_end: bool
) -> None:
    mine = await begun(connection, pricing_model="per_seat")
    plan = await plans.get(connection, mine.plan_id)
    assert plan is not None
    yearly = replace(plan.terms, price=Decimal(10), billing_interval="year")
    await plans.change(connection, plan.id, yearly, subscribers=subscribers)
    at = NOON + timedelta(days=1)
    await plan_changes.change(
        connection, mine.id, quantity=3, now=at, actor="test", plan_id=plan.id, at_period_end=at_period_end
    )
    changed = await turned(connection, mine, at)
    assert (changed.current_period_start, changed.current_period_end, changed.quantity) == (
        mine.current_period_start,
        mine.current_period_end,
        1 if at_period_end else 3,
    )
    renewed = await turned(connection, mine, mine.current_period_end)
    months = 1 if subscribers == "keep" else 12
    lasts = (renewed.current_period_end - renewed.current_period_start).days
    assert (renewed.quantity, round(lasts / 30.4)) == (3, months)


async def repriced(
    connection: AsyncConnection, plan_id: str, price: int, subscribers: Literal["keep"] | None = None
) -> None:
    plan = await plans.get(connection, plan_id)
    assert plan is not None
    await plans.change(connection, plan_id, replace(plan.terms, price=Decimal(price)), subscribers=subscribers)


async def price(connection: AsyncConnection, subscription: StoredSubscription) -> Decimal:
    return (await plan_of(connection, subscription)).terms.price


async def test_kept_price_stays_also_of_a_plan_that_was_changed_to_within_a_period_of_another_price(
    connection: AsyncConnection,
) -> None:
    mine, other = await begun(connection), await a_plan(connection, price=Decimal(5))
    await repriced(connection, mine.plan_id, 2)
    await plan_changes.change(connection, mine.id, plan_id=other, now=NOON, actor="test")
    await repriced(connection, other, 6, "keep")
    renewed = await turned(connection, mine, mine.current_period_end)
    assert await price(connection, renewed) == 5


async def test_price_that_a_subscriber_has_for_the_period_is_kept_where_the_next_change_keeps_it(
    connection: AsyncConnection,
) -> None:
    mine = await begun(connection)
    await repriced(connection, mine.plan_id, 2)
    await repriced(connection, mine.plan_id, 3, "keep")
    renewed = await turned(connection, mine, mine.current_period_end)
    assert await price(connection, renewed) == 1


async def test_renewal_is_announced_at_the_price_that_it_will_have(connection: AsyncConnection) -> None:
    mine, kept = [await begun(connection, billing_interval="year") for _ in range(2)]
    await repriced(connection, mine.plan_id, 2)
    await repriced(connection, kept.plan_id, 2, "keep")
    ahead = mine.current_period_end - timedelta(days=7)
    assert await advance_notices.announce_renewals(connection, now=ahead, limit=10) == 2
    for each, expected in ((mine, "2"), (kept, "1")):
        told = dict(await list_notifications(connection, each.user_id))["subscription.renews"]
        assert (told["price"], told["subscription_id"]) == (expected, str(each.id))
        assert await price(connection, await turned(connection, each, mine.current_period_end)) == int(expected)
