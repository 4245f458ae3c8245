"""A failed renewal gives what the plan says, and a refusal names the payment that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gateway.clock import now
from gateway.ledger.accounts import principals
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.subscriptions import renewals
from policies.access.authorization import check_account
from policies.model import PastDue, Refused, Subscription
from tests.payments.fake_stripe import FakeStripe, Object
from tests.payments.payment_stack import GRACE, PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, spend, subscribe_and_pay


async def change_terms(stack: PaymentStack, plan_id: str, **terms: Any) -> None:
    async with stack.database.transaction() as connection:
        found = await plans.get(connection, plan_id)
        assert found is not None
        await plans.change(connection, plan_id, replace(found.terms, **terms), subscribers="migrate")


async def admitted(stack: PaymentStack, user: User, *, at: datetime | None = None) -> Subscription:
    """The subscription that pays for a call; raises Refused."""
    async with stack.database.read() as connection:
        account = await principals.find_account(connection, user.id)
    assert account is not None
    return check_account(account, at or now(), grace=GRACE)


async def refusal(stack: PaymentStack, user: User) -> tuple[str, Mapping[str, object]]:
    with pytest.raises(Refused) as refused:
        await admitted(stack, user)
    return refused.value.detail, refused.value.extras


async def fail_renewal(stack: PaymentStack, fake_stripe: FakeStripe, user: User, *, left: int = 400) -> Object:
    """A period of `pro` has ended and with it its credits; the next one's payment failed. Gives the invoice."""
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user)
    await spend(stack, user, 1000 - left)
    ended = (await current_subscription(stack, user)).current_period_end
    invoice = fake_stripe.renew(subscription_id, succeeds=False)
    await stack.expire(user, at=ended)
    await deliver_all(stack, fake_stripe)
    await stack.expire(user, at=ended)
    return invoice


async def end_grace(stack: PaymentStack, user: User) -> None:
    found = await current_subscription(stack, user)
    late = (found.past_due_since or found.current_period_end) + GRACE + timedelta(days=31)
    async with stack.database.transaction() as connection:
        await renewals.advance(connection, found.id, now=late, grace=GRACE)


@pytest.mark.parametrize(("policy", "balance"), [(PastDue.SERVE, 1000), (PastDue.PURCHASED_ONLY, 0), (PastDue.STOP, 0)])
async def test_failed_renewal_gives_what_the_plan_says(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, policy: PastDue, balance: int
) -> None:
    await change_terms(stripe_stack, "pro", past_due=policy)
    user = await stripe_stack.create_user()
    invoice = await fail_renewal(stripe_stack, fake_stripe, user)
    assert (await current_subscription(stripe_stack, user)).status == "past_due"
    assert await stripe_stack.balance(user) == balance
    if policy is PastDue.STOP:
        detail, extras = await refusal(stripe_stack, user)
        assert "The payment for Pro failed on" in detail
        assert extras["subscription_status"] == "past_due"
    else:
        await admitted(stripe_stack, user)
    fake_stripe.recover(invoice["id"])
    await deliver_all(stripe_stack, fake_stripe)
    await admitted(stripe_stack, user)
    assert await stripe_stack.balance(user) == 1000
    assert (await stripe_stack.billing_state(user)).granted == 2000


async def test_credits_served_while_past_due_are_owed_once_the_grace_is_over(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    await change_terms(stripe_stack, "pro", past_due=PastDue.SERVE)
    user = await stripe_stack.create_user()
    invoice = await fail_renewal(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, 30)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 970
    await end_grace(stripe_stack, user)
    assert await stripe_stack.balance(user) == -30
    fake_stripe.recover(invoice["id"])
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.balance) == ("active", 970)


@pytest.mark.parametrize("policy", [PastDue.SERVE, PastDue.PURCHASED_ONLY])
async def test_another_failure_of_the_same_payment_begins_no_other_grace(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, policy: PastDue
) -> None:
    await change_terms(stripe_stack, "pro", past_due=policy)
    user = await stripe_stack.create_user()
    invoice = await fail_renewal(stripe_stack, fake_stripe, user)
    await end_grace(stripe_stack, user)
    fake_stripe.charge_renewal(invoice, succeeds=False)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).status == "expired"
    assert await stripe_stack.balance(user) == 0
    await refusal(stripe_stack, user)


async def test_unpaid_subscription_falls_back_whether_the_grace_or_the_provider_ended_it(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    await change_terms(stripe_stack, "pro", fallback_plan="free")
    user = await stripe_stack.create_user()
    invoice = await fail_renewal(stripe_stack, fake_stripe, user)
    at_stripe = fake_stripe.objects[invoice["parent"]["subscription_details"]["subscription"]]
    at_stripe["status"] = "unpaid"
    fake_stripe.emit("customer.subscription.updated", at_stripe)
    await deliver_all(stripe_stack, fake_stripe)
    assert ((await current_subscription(stripe_stack, user)).status, (await admitted(stripe_stack, user)).plan.id) == (
        "paused",
        "free",
    )
    at_stripe["status"] = "past_due"
    fake_stripe.emit("customer.subscription.updated", at_stripe)
    await deliver_all(stripe_stack, fake_stripe)
    await end_grace(stripe_stack, user)
    at_stripe["status"] = "unpaid"
    fake_stripe.emit("customer.subscription.updated", at_stripe)
    await deliver_all(stripe_stack, fake_stripe)
    assert ((await current_subscription(stripe_stack, user)).status, (await admitted(stripe_stack, user)).plan.id) == (
        "expired",
        "free",
    )


async def test_refusal_names_the_failed_payment_and_no_abandoned_checkout(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await fail_renewal(stripe_stack, fake_stripe, user)
    await end_grace(stripe_stack, user)
    await stripe_stack.subscribe(user, "basic")  # and does not pay
    detail, extras = await refusal(stripe_stack, user)
    assert detail.startswith("The payment for Pro failed on ")
    assert "/me/billing/portal" in detail
    assert extras["subscription_status"] == "expired"
    assert extras["payment_failed_at"]
    async with await stripe_stack.client_for(user) as client:
        shown = (await client.get("/subscriptions/me")).json()
    assert (shown["plan_id"], shown["status"]) == ("pro", "expired")
    assert shown["past_due_since"] is not None


async def test_ended_subscription_says_how_many_credits_wait(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await buy_pack(stripe_stack, fake_stripe, user)
    fake_stripe.end(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    detail, extras = await refusal(stripe_stack, user)
    assert detail == (
        "The subscription to Pro is canceled. 1100 credits wait for a plan: GET /plans lists those on offer."
    )
    assert extras == {"subscription_status": "canceled", "credits_waiting": 1100}


async def test_bought_credits_stay_usable_under_the_fallback_plan(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    await change_terms(stripe_stack, "free", requests_per_minute=5)
    await change_terms(stripe_stack, "pro", fallback_plan="free")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await buy_pack(stripe_stack, fake_stripe, user)
    assert (await admitted(stripe_stack, user)).plan.id == "pro"
    fake_stripe.end(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    found = await admitted(stripe_stack, user)
    assert (found.plan.id, found.plan.requests_per_minute, str(found.status)) == ("free", 5, "canceled")
    assert await stripe_stack.balance(user) == 1100
    await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    assert (await admitted(stripe_stack, user)).plan.id == "basic"


async def test_abandoned_checkout_does_not_fall_back(stripe_stack: PaymentStack) -> None:
    await change_terms(stripe_stack, "pro", fallback_plan="free")
    user = await stripe_stack.create_user()
    await stripe_stack.subscribe(user)
    detail, _ = await refusal(stripe_stack, user)
    assert detail == "The subscription to Pro is incomplete."
    found = await current_subscription(stripe_stack, user)
    async with stripe_stack.database.transaction() as connection:
        await renewals.advance(connection, found.id, now=now() + timedelta(days=2), grace=GRACE)
    detail, _ = await refusal(stripe_stack, user)
    assert detail == "The subscription to Pro is expired."


async def buy_pack(stack: PaymentStack, fake_stripe: FakeStripe, user: User) -> None:
    checkout = await stack.buy_pack(user)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stack, fake_stripe)
