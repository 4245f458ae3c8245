"""Usage reaches the provider's meter once, in spite of late records and crashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.payments import provider_customers
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.usage.ingestion import ingest
from gateway.payments.provider import CredentialsRejected, ProviderUnavailable
from gateway.payments.stripe.adapter import Stripe
from gateway.workers.billing.usage_reports import UsageReportSender
from tests.ledger.make import a_line
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack

LONG_AGO = """
    CREATE TABLE usage_of_long_ago PARTITION OF usage_tracking FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')
"""


class LostResponse:
    """Stripe accepts the report, and its response is lost."""

    def __init__(self, provider: Stripe) -> None:
        self._provider = provider
        self.name = provider.name
        self.traits = provider.traits

    async def report_usage(self, **report: Any) -> None:
        await self._provider.report_usage(**report)
        raise ProviderUnavailable("the response is lost")


async def test_usage_is_reported_once(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user_id, subscription_id = await create_metered_subscription(stripe_stack)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=1, microsecond=0)
    await record_usage(stripe_stack, user_id, subscription_id, [3, 4], at=today)
    await record_usage(stripe_stack, user_id, subscription_id, [5], at=today - timedelta(days=2))
    assert isinstance(stripe_stack.provider, Stripe)
    with pytest.raises(ProviderUnavailable):
        await run_reporter(stripe_stack, LostResponse(stripe_stack.provider))
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [5, 7]

    await record_usage(stripe_stack, user_id, subscription_id, [6], at=today - timedelta(days=2))  # recorded late
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [5, 6, 7]
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [5, 6, 7]
    assert all(len(identifier) <= 100 for identifier in fake_stripe.meter_events)
    assert {event["payload"]["stripe_customer_id"] for event in fake_stripe.meter_events.values()} == {"cus_metered"}


async def test_usage_is_reported_by_the_plan_of_each_call(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user_id, subscription_id = await create_metered_subscription(stripe_stack)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=1, microsecond=0)
    await record_usage(
        stripe_stack, user_id, subscription_id, [40], at=today, plan_id="pro"
    )  # paid for by the flat price
    await record_usage(stripe_stack, user_id, subscription_id, [3], at=today)
    async with stripe_stack.database.transaction() as connection:
        await connection.execute(text("UPDATE subscriptions SET plan_id = 'pro'"))
    await record_usage(stripe_stack, user_id, subscription_id, [50], at=today, plan_id="pro")
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [3]


async def test_usage_survives_a_rejected_key(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user_id, subscription_id = await create_metered_subscription(stripe_stack)
    await record_usage(stripe_stack, user_id, subscription_id, [3], at=datetime.now(UTC).replace(microsecond=0))
    for fake_stripe.key_refused in (401, 403):
        with pytest.raises(CredentialsRejected):
            await run_reporter(stripe_stack, stripe_stack.provider)
    fake_stripe.key_refused = None
    await run_reporter(stripe_stack, stripe_stack.provider, later=timedelta(days=2))
    assert reported_credits(fake_stripe) == [3]


async def test_usage_older_than_the_provider_accepts_is_omitted(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user_id, subscription_id = await create_metered_subscription(stripe_stack)
    async with stripe_stack.database.transaction() as connection:
        await connection.execute(text(LONG_AGO))
    await record_usage(stripe_stack, user_id, subscription_id, [9], at=datetime(2001, 1, 15, tzinfo=UTC))
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == []


def reported_credits(fake_stripe: FakeStripe) -> list[int]:
    return sorted(int(event["payload"]["value"]) for event in fake_stripe.meter_events.values())


async def run_reporter(stack: PaymentStack, provider: object, *, later: timedelta = timedelta()) -> None:
    """Runs a new worker until it has nothing to do."""
    reporter = UsageReportSender(
        stack.database,
        provider,  # type: ignore[arg-type] # either kind
        now=lambda: now() + later,
    )
    while await reporter.run_once():
        pass


async def create_metered_subscription(stack: PaymentStack) -> tuple[UUID, UUID]:
    user = await stack.create_user()
    async with stack.database.transaction() as connection:
        terms = PlanTerms(
            name="Metered",
            price=Decimal("0.01"),
            pricing_model="usage",
            provider_ids={"stripe_price_id": "price_usage"},
        )
        plan = await plans.create(connection, terms, plan_id="metered")
        waiting = await lifecycle.await_payment(connection, user.id, plan_id=plan.id, provider="stripe", now=now())
        await provider_customers.record(connection, user.id, provider="stripe", provider_customer_id="cus_metered")
        found = await subscriptions.get(connection, waiting.id)
    assert found is not None
    return user.id, found.id


async def record_usage(
    stack: PaymentStack,
    user_id: UUID,
    subscription_id: UUID,
    charges: list[int],
    *,
    at: datetime,
    plan_id: str = "metered",
) -> None:
    lines = [
        a_line(
            user_id,
            credits_charged=charge,
            at=at,
            request_id=str(uuid4()),
            subscription_id=str(subscription_id),
            plan_id=plan_id,
        )
        for charge in charges
    ]
    async with stack.database.transaction() as connection:
        await ingest(connection, lines)


async def test_usage_of_kept_subscribers_is_reported_after_their_plan_has_a_flat_price(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user_id, subscription_id = await create_metered_subscription(stripe_stack)
    terms = PlanTerms(name="Flat", price=Decimal("5.00"), provider_ids={"stripe_price_id": "price_flat"})
    async with stripe_stack.database.transaction() as connection:
        await plans.change(connection, "metered", terms, subscribers="keep")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=1, microsecond=0)
    await record_usage(stripe_stack, user_id, subscription_id, [3], at=today)
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [3]
