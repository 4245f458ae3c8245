"""Of a subscription that sells several things, only the item of a plan is read and changed."""

from __future__ import annotations

import pytest

from gateway.ledger.accounts.users import User
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.stripe.test_scheduled_changes import ask
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


async def with_add_on(stack: PaymentStack, fake_stripe: FakeStripe, *, first: bool) -> tuple[User, str]:
    """A subscriber to `basic` whose subscription also bills the usage of another meter, and support."""
    fake_stripe.prices |= {"price_meter": 0, "price_support": 700}
    fake_stripe.metered.add("price_meter")
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user, plan="basic")
    fake_stripe.add_item(subscription_id, "price_support", first=first, quantity=4)
    fake_stripe.add_item(subscription_id, "price_meter", first=first, quantity=None)
    await deliver_all(stack, fake_stripe)
    return user, subscription_id


@pytest.mark.parametrize("first", [True, False])
async def test_items_that_sell_no_plan_are_ignored(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, first: bool
) -> None:
    user, subscription_id = await with_add_on(stripe_stack, fake_stripe, first=first)
    found = await current_subscription(stripe_stack, user)
    assert (found.plan_id, found.quantity, found.status) == ("basic", 1, "active")
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.billing_state(user)).granted == 200
    renewed = max(await stripe_stack.payments(user), key=lambda row: row.amount)
    assert (renewed.plan_id, renewed.credits_awarded, str(renewed.amount)) == ("basic", 100, "37.99")


@pytest.mark.parametrize("first", [True, False])
async def test_change_of_plan_leaves_other_items_as_they_are(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, first: bool
) -> None:
    user, subscription_id = await with_add_on(stripe_stack, fake_stripe, first=first)
    answer = await ask(stripe_stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["plan_id"], answer.json()["quantity"]) == (200, "pro", 1)
    items = {
        each["price"]["id"]: each.get("quantity") for each in fake_stripe.objects[subscription_id]["items"]["data"]
    }
    assert items == {"price_pro": 1, "price_support": 4, "price_meter": None}
    await deliver_all(stripe_stack, fake_stripe)
    assert 990 <= await stripe_stack.balance(user) <= 1000


async def test_subscription_to_two_plans_is_named_and_changes_nothing(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fake_stripe.add_item(subscription_id, "price_pro")
    answer = await ask(stripe_stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_refused")
    assert "2 items that sell a plan" in answer.json()["detail"]
    assert (await current_subscription(stripe_stack, user)).plan_id == "basic"
