"""Usage below zero is forgiven as credits and billed as money, once, whatever ends the period."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.credits import grants
from gateway.ledger.invoicing import issued_invoices, plan_changes
from gateway.ledger.invoicing.invoices import Invoice
from gateway.ledger.payments import provider_subscriptions
from gateway.ledger.subscriptions import lifecycle, overage, subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.ledger.usage import ingestion
from policies.billing.issuing import Issuer
from policies.model import SubscriptionStatus as Status
from tests.ledger.make import NOON, a_line, a_user
from tests.ledger.subscriptions.test_renewals import a_plan, balance, begun, kinds, turned

MONTH = timedelta(days=31)
POSTPAID: dict[str, Any] = {
    "price": Decimal(10),
    "credits_per_period": 100,
    "overage_credits": 1000,
    "overage_price": Decimal("0.02"),
}


async def use(connection: AsyncConnection, subscription: StoredSubscription, credits: int, *, at: datetime) -> None:
    line = a_line(subscription.user_id, credits_charged=credits, at=at, subscription_id=str(subscription.id))
    await ingestion.ingest(connection, [line])


async def credits_of(connection: AsyncConnection, user_id: UUID) -> int:
    return (await balance(connection, user_id)).current_credits


async def issued(connection: AsyncConnection, subscription: StoredSubscription, *, now: datetime) -> Invoice:
    plan = await plan_of(connection, subscription)
    return await issued_invoices.issue_next(connection, subscription, plan=plan, issuer=Issuer(), now=now)


def asked(invoice: Invoice) -> list[tuple[int, str]]:
    return [(line["quantity"], line["amount"]) for line in invoice.lines]


async def test_overage_is_forgiven_and_billed_with_the_next_period(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    await use(connection, subscription, 250, at=NOON + timedelta(days=1))
    assert await credits_of(connection, subscription.user_id) == -150
    renewed = await turned(connection, subscription, NOON + MONTH)
    assert await credits_of(connection, subscription.user_id) == 100
    assert (await kinds(connection, subscription.user_id))[-2:] == [("grant", 150), ("grant", 100)]
    invoice = await issued(connection, renewed, now=NOON + MONTH)
    assert asked(invoice) == [(1, "10.00"), (150, "3.00")]
    # Nothing is asked for or forgiven again.
    await turned(connection, renewed, NOON + 2 * MONTH)
    assert await credits_of(connection, subscription.user_id) == 100
    assert not await overage.has_open(connection, subscription.id)


async def test_late_usage_is_billed_with_the_period_after(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID | {"credits_per_period": 0})
    await use(connection, subscription, 30, at=NOON)
    renewed = await turned(connection, subscription, NOON + MONTH)
    await use(connection, subscription, 5, at=NOON + timedelta(days=2))  # of the first period
    await turned(connection, renewed, NOON + 2 * MONTH)
    assert await credits_of(connection, subscription.user_id) == 0
    query = text("SELECT credits FROM overages WHERE subscription_id = :id ORDER BY id")
    assert list(await connection.scalars(query, {"id": subscription.id})) == [30, 5]


async def test_debt_that_nobody_used_is_not_billed(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    await grants.adjust(connection, subscription.user_id, amount=-400, reason="chargeback", actor="test")
    await use(connection, subscription, 50, at=NOON)
    await turned(connection, subscription, NOON + MONTH)
    # 100 - 400 - 50, of which 50 are billed; the next 100 pay of the rest.
    assert await credits_of(connection, subscription.user_id) == 100 - 300


async def test_change_of_plan_bills_at_the_price_of_before(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    await use(connection, subscription, 200, at=NOON)
    cheaper = await a_plan(connection, **POSTPAID | {"overage_price": Decimal("0.01")})
    at = NOON + timedelta(days=1)
    await plan_changes.change(connection, subscription.id, now=at, actor="test", plan_id=cheaper)
    assert await credits_of(connection, subscription.user_id) == 0
    await use(connection, subscription, 70, at=at)
    await turned(connection, subscription, NOON + MONTH)
    query = text("SELECT credits, price FROM overages WHERE subscription_id = :id ORDER BY id")
    rows = (await connection.execute(query, {"id": subscription.id})).all()
    assert [tuple(row) for row in rows] == [(100, Decimal("0.02")), (70, Decimal("0.01"))]


async def test_used_credits_that_a_smaller_plan_takes_back_are_billed(connection: AsyncConnection) -> None:
    """Their price went back to the customer, and a plan without credits has no grant that would pay the debt."""
    subscription = await begun(connection, **POSTPAID)
    await use(connection, subscription, 130, at=NOON)
    bare = await a_plan(connection, **POSTPAID | {"credits_per_period": 0, "overage_price": Decimal("0.03")})
    at = NOON + MONTH / 2
    await plan_changes.change(connection, subscription.id, now=at, actor="test", plan_id=bare)
    assert await credits_of(connection, subscription.user_id) == -50
    await use(connection, subscription, 7, at=at)
    for month in (1, 2):
        await turned(connection, subscription, NOON + month * MONTH)
    assert await credits_of(connection, subscription.user_id) == 0
    query = text("SELECT credits, price FROM overages WHERE subscription_id = :id ORDER BY id")
    rows = (await connection.execute(query, {"id": subscription.id})).all()
    assert [tuple(row) for row in rows] == [(30, Decimal("0.02")), (57, Decimal("0.03"))]


async def test_smaller_plan_takes_no_credits_back_that_were_billed(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    await use(connection, subscription, 500, at=NOON)
    bare = await a_plan(connection, **POSTPAID | {"credits_per_period": 0})
    await plan_changes.change(connection, subscription.id, now=NOON + MONTH / 2, actor="test", plan_id=bare)
    query = text("""
        SELECT g.source, l.amount FROM credit_ledger l JOIN credit_grants g ON g.id = l.grant_id
         WHERE l.user_id = :id AND l.kind = 'adjustment'
    """)
    rows = (await connection.execute(query, {"id": subscription.user_id})).all()
    assert [tuple(row) for row in rows] == [("plan", -50)]


async def test_last_usage_of_an_ended_subscription_is_billed(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    await use(connection, subscription, 130, at=NOON)
    ended = await lifecycle.cancel(connection, subscription.id, now=NOON, at_period_end=False)
    assert subscription.id in await overage.list_ended(connection, limit=10)
    plan = await plan_of(connection, ended)
    assert await overage.bill(connection, ended, plan=plan, at=NOON, actor="test") == 30
    assert subscription.id not in await overage.list_ended(connection, limit=10)
    await use(connection, subscription, 4, at=NOON)
    assert subscription.id in await overage.list_ended(connection, limit=10)
    assert await overage.bill(connection, ended, plan=plan, at=NOON, actor="test") == 4


async def test_next_subscription_bills_the_one_before(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    await use(connection, subscription, 130, at=NOON)
    await lifecycle.cancel(connection, subscription.id, now=NOON, at_period_end=False)
    free = await a_plan(connection, price=Decimal(0), credits_per_period=7)
    await lifecycle.start(connection, subscription.user_id, plan_id=free, now=NOON + timedelta(hours=1))
    assert await credits_of(connection, subscription.user_id) == 7
    assert await overage.has_open(connection, subscription.id)


async def test_free_plan_that_goes_on_with_its_former_period_bills_the_one_between(connection: AsyncConnection) -> None:
    free = await a_plan(connection, price=Decimal(0), credits_per_period=7)
    user = await a_user(connection)
    again = partial(lifecycle.start, connection, user.id, plan_id=free, is_own_doing=True)
    first = await again(now=NOON)
    await lifecycle.cancel(connection, first.id, now=NOON, at_period_end=False)
    postpaid = await a_plan(connection, **POSTPAID)
    between = await lifecycle.start(connection, user.id, plan_id=postpaid, now=NOON)
    await use(connection, between, 130, at=NOON)
    await lifecycle.cancel(connection, between.id, now=NOON, at_period_end=False)
    await again(now=NOON + timedelta(hours=1))
    assert await credits_of(connection, user.id) == 0
    assert await overage.list_ended(connection, limit=10) == []
    assert asked(await issued(connection, between, now=NOON + timedelta(hours=1))) == [(1, "10.00"), (23, "0.46")]


async def test_plan_priced_by_usage_is_postpaid_and_bills_usage_alone(connection: AsyncConnection) -> None:
    terms: dict[str, Any] = {
        "price": Decimal("0.01"),
        "pricing_model": "usage",
        "credits_per_period": 0,
        "overage_credits": 500,
    }
    subscription = await begun(connection, **terms)
    await use(connection, subscription, 80, at=NOON + timedelta(days=1))
    invoice = await issued(connection, subscription, now=NOON + timedelta(days=2))
    assert asked(invoice) == [(80, "0.80")]
    await turned(connection, subscription, NOON + MONTH)
    assert await credits_of(connection, subscription.user_id) == 0
    assert not await overage.has_open(connection, subscription.id)


@pytest.mark.parametrize("is_priced", [True, False])
async def test_provider_bills_overage_by_a_meter_within_the_ended_period(
    connection: AsyncConnection, is_priced: bool
) -> None:
    user = await a_user(connection)
    terms = POSTPAID | ({"overage_stripe_price_id": "price_meter"} if is_priced else {})
    plan_id = await a_plan(connection, **terms)
    waiting = await lifecycle.await_payment(connection, user.id, plan_id=plan_id, provider="stripe", now=NOON)

    async def sync(start: datetime) -> StoredSubscription:
        return await provider_subscriptions.sync_from_provider(
            connection,
            waiting.id,
            status=Status.ACTIVE,
            period_start=start,
            period_end=start + MONTH,
            cancel_at_period_end=False,
            quantity=1,
            now=start + timedelta(minutes=1),
            actor="test",
            provider_subscription_id=f"sub_{user.id}",
        )

    subscription = await sync(NOON)
    await use(connection, subscription, 160, at=NOON + timedelta(days=1))
    for _ in range(2):
        await sync(NOON + MONTH)
    query = text("SELECT credits_used, used_at, identifier FROM usage_reports WHERE subscription_id = :id")
    rows = (await connection.execute(query, {"id": waiting.id})).all()
    if not is_priced:
        assert rows == []
        assert await credits_of(connection, user.id) == 40  # 100 - 160 + 100: a debt, since nobody can bill it
        return
    (row,) = rows
    assert (row.credits_used, row.used_at) == (60, NOON + MONTH - timedelta(seconds=1))
    assert await credits_of(connection, user.id) == 100
    assert not await overage.has_open(connection, waiting.id)
    found = await subscriptions.get(connection, waiting.id)
    assert found is not None
    assert found.current_period_start == NOON + MONTH


async def test_trial_and_plan_without_overage_bill_nothing(connection: AsyncConnection) -> None:
    prepaid = await begun(connection)
    await use(connection, prepaid, 120, at=NOON)
    await turned(connection, prepaid, NOON + MONTH)
    assert await credits_of(connection, prepaid.user_id) == 80
    user, plan_id = await a_user(connection), await a_plan(connection, **POSTPAID)
    trial = await lifecycle.start_trial(connection, user.id, plan_id=plan_id, days=7, now=NOON, actor="test")
    await use(connection, trial, 120, at=NOON)
    await turned(connection, trial, NOON + timedelta(days=8))
    assert await credits_of(connection, user.id) == 80


async def test_overage_of_a_period_has_the_price_that_held_in_it(connection: AsyncConnection) -> None:
    subscription = await begun(connection, **POSTPAID)
    plan = await plan_of(connection, subscription)
    await plans.change(connection, plan.id, replace(plan.terms, overage_price=Decimal("0.05")))
    await use(connection, subscription, 200, at=NOON)
    await turned(connection, subscription, NOON + MONTH)
    query = text("SELECT credits, price FROM overages WHERE subscription_id = :id")
    rows = (await connection.execute(query, {"id": subscription.id})).all()
    assert [tuple(row) for row in rows] == [(100, Decimal("0.02"))]
