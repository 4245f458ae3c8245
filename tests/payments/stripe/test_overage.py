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
from tests.payments.stripe.test_scheduled_changes import ask
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


def sold(fake_stripe: FakeStripe, subscription_id: str) -> list[str]:
    return sorted(each["price"]["id"] for each in fake_stripe.objects[subscription_id]["items"]["data"])


@pytest.mark.parametrize(("at_period_end", "card"), [(False, "good"), (False, "3ds"), (True, "good")])
async def test_change_to_a_postpaid_plan_sells_its_metered_price_besides(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, at_period_end: bool, card: str
) -> None:
    """Else nobody would be asked for what is used below zero."""
    await a_postpaid_plan(stripe_stack, fake_stripe)
    fake_stripe.prices |= {"price_postpaid": 1999, "price_meter": 0}
    fake_stripe.metered.add("price_meter")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = card
    for _ in range(2):
        answer = await ask(stripe_stack, user, "change", plan_id="postpaid", at_period_end=at_period_end)
        assert answer.status_code == 200, answer.text
    if at_period_end:
        assert sold(fake_stripe, subscription_id) == ["price_basic"]
        fake_stripe.renew(subscription_id)
    elif card == "3ds":
        assert sold(fake_stripe, subscription_id) == ["price_basic"]
        fake_stripe.changes.confirm(fake_stripe.objects[subscription_id]["latest_invoice"])
    await deliver_all(stripe_stack, fake_stripe)
    assert sold(fake_stripe, subscription_id) == ["price_meter", "price_postpaid"]
    assert (await current_subscription(stripe_stack, user)).plan_id == "postpaid"


@pytest.mark.parametrize("at_period_end", [False, True])
async def test_change_between_two_metered_prices_is_refused(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, at_period_end: bool
) -> None:
    """Stripe would bill the overage at the former price, twice or not at all."""
    await a_postpaid_plan(stripe_stack, fake_stripe)
    fake_stripe.prices |= {"price_other": 2999, "price_meter": 0}
    fake_stripe.metered.add("price_meter")
    other = {"name": "Other", "overage_stripe_price_id": "price_other_meter"}
    ids = {"provider_ids": {"stripe_price_id": "price_other"}}
    async with stripe_stack.database.transaction() as connection:
        await plans.create(connection, PlanTerms(**TERMS | other | ids), plan_id="other")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="postpaid")
    fake_stripe.add_item(subscription_id, "price_meter", quantity=None)
    # The price of the plan is another by now; the subscriber keeps the former one.
    await a_postpaid_plan(stripe_stack, fake_stripe, overage_stripe_price_id="price_next_meter")
    before = len(fake_stripe.list_all("invoice"))
    refused = await ask(stripe_stack, user, "change", plan_id="other", at_period_end=at_period_end)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_refused")
    assert "end the subscription with its period" in refused.json()["detail"]
    assert sold(fake_stripe, subscription_id) == ["price_meter", "price_postpaid"]
    assert len(fake_stripe.list_all("invoice")) == before


async def test_change_from_a_postpaid_plan_leaves_the_metered_price_for_what_was_used(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    await a_postpaid_plan(stripe_stack, fake_stripe)
    fake_stripe.prices["price_meter"] = 0
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="postpaid")
    fake_stripe.add_item(subscription_id, "price_meter", quantity=None)
    await use(stripe_stack, user, 130)
    assert (await ask(stripe_stack, user, "change", plan_id="pro")).status_code == 200
    await deliver_all(stripe_stack, fake_stripe)
    await run_reporter(stripe_stack, stripe_stack.provider)
    assert reported_credits(fake_stripe) == [30]
    assert sold(fake_stripe, subscription_id) == ["price_meter", "price_pro"]


async def test_plan_priced_by_usage_is_sold_and_changed_to_without_a_quantity(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Which Stripe refuses for a metered price."""
    fake_stripe.prices["price_usage"] = 0
    fake_stripe.metered.add("price_usage")
    terms = PlanTerms(
        name="Usage",
        price=Decimal("0.01"),
        pricing_model="usage",
        overage_credits=1000,
        provider_ids={"stripe_price_id": "price_usage"},
    )
    async with stripe_stack.database.transaction() as connection:
        await plans.create(connection, terms, plan_id="usage")
    buyer, other = await stripe_stack.create_user(), await stripe_stack.create_user()
    bought = [await subscribe_and_pay(stripe_stack, fake_stripe, buyer, plan="usage")]
    bought.append(await subscribe_and_pay(stripe_stack, fake_stripe, other, plan="basic"))
    assert (await ask(stripe_stack, other, "change", plan_id="usage")).status_code == 200
    for subscription_id in bought:
        (item,) = fake_stripe.objects[subscription_id]["items"]["data"]
        assert (item["price"]["id"], "quantity" in item) == ("price_usage", False)
