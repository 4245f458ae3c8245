"""What a postpaid plan uses beyond its credits reaches Stripe's meter once, within the period that it was used in."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.usage.ingestion import ingest
from gateway.payments.provider import ProviderUnavailable
from gateway.payments.stripe.adapter import Stripe
from tests.ledger.make import a_line
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay
from tests.payments.test_usage_reports import LostResponse, reported_credits, run_reporter

TERMS: dict[str, Any] = {
    "name": "Postpaid",
    "price": Decimal("9.99"),
    "credits_per_period": 100,
    "overage_credits": 1000,
    "overage_price": Decimal("0.02"),
    "overage_stripe_price_id": "price_meter",
    "provider_ids": {"stripe_price_id": "price_postpaid"},
}


async def a_postpaid_plan(stack: PaymentStack, fake_stripe: FakeStripe, **terms: Any) -> None:
    fake_stripe.prices = {**fake_stripe.prices, "price_postpaid": 999}
    async with stack.database.transaction() as connection:
        given = PlanTerms(**TERMS | terms)
        found = await plans.get(connection, "postpaid")
        if found is None:
            await plans.create(connection, given, plan_id="postpaid")
        else:
            await plans.change(connection, "postpaid", given)


async def use(stack: PaymentStack, user: User, credits: int) -> None:
    async with stack.database.transaction() as connection:
        await ingest(connection, [a_line(user.id, credits_charged=credits, at=now(), plan_id="postpaid")])


async def test_overage_reaches_the_meter_once_at_the_end_of_the_period(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    await a_postpaid_plan(stripe_stack, fake_stripe)
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="postpaid")
    ended = await current_subscription(stripe_stack, user)
    await use(stripe_stack, user, 130)
    assert await stripe_stack.balance(user) == -30
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 100
    assert isinstance(stripe_stack.provider, Stripe)
    with pytest.raises(ProviderUnavailable):
        await run_reporter(stripe_stack, LostResponse(stripe_stack.provider))
    for _ in range(2):
        await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [30]
    (event,) = fake_stripe.meter_events.values()
    assert int(event["timestamp"]) < ended.current_period_end.timestamp()


async def test_checkout_sells_the_metered_price_besides(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    await a_postpaid_plan(stripe_stack, fake_stripe)
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user, "postpaid")
    sold = fake_stripe.objects[checkout.provider_checkout_id or ""]["_line_items"]
    assert sold == {"0": {"price": "price_postpaid", "quantity": "1"}, "1": {"price": "price_meter"}}


async def test_plan_whose_overage_nobody_bills_is_not_sold(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    await a_postpaid_plan(stripe_stack, fake_stripe, overage_stripe_price_id=None)
    user = await stripe_stack.create_user()
    async with await stripe_stack.client_for(user) as client:
        refused = await client.post("/subscriptions/postpaid")
    assert (refused.status_code, refused.json()["code"]) == (501, "payments_not_configured")
