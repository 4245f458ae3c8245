"""What was granted for money goes with the money: taken back in proportion, and owed where it was used."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gateway.ledger.accounts.users import User
from gateway.ledger.payments.payments import Payment
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, spend, subscribe_and_pay


async def upgrade(stack: PaymentStack, fake_stripe: FakeStripe, user: User) -> tuple[str, Payment]:
    """From basic to pro at once; gives the subscription's id at Stripe and the payment of the difference."""
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user, plan="basic")
    await change_to(stack, user, "pro")
    await deliver_all(stack, fake_stripe)
    (paid,) = (row for row in await stack.payments(user) if row.amount == Decimal("20.00"))
    return subscription_id, paid


async def change_to(stack: PaymentStack, user: User, plan_id: str) -> None:
    found = await current_subscription(stack, user)
    async with await stack.client_for(user) as client:
        changed = await client.post(f"/subscriptions/{found.id}/change", json={"plan_id": plan_id})
    assert changed.status_code == 200, changed.text


async def test_refund_of_an_upgrade_takes_its_credits_in_proportion(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    _, paid = await upgrade(stripe_stack, fake_stripe, user)
    before = await stripe_stack.balance(user)
    assert paid.credits_awarded == before - 100 > 0
    fake_stripe.refund(paid.provider_payment_id or "", 1000)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == before - paid.credits_awarded // 2
    fake_stripe.refund(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 100


async def test_dispute_of_an_upgrade_takes_all_its_credits_and_leaves_a_debt_for_those_used(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    _, paid = await upgrade(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, await stripe_stack.balance(user))
    dispute_id = fake_stripe.dispute(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == -paid.credits_awarded
    fake_stripe.decide(dispute_id, "won")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 0


@pytest.mark.parametrize("times", [1, 3])
async def test_credits_of_an_upgrade_that_was_taken_back_are_owed_over_the_end_of_the_period(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, times: int
) -> None:
    user = await stripe_stack.create_user()
    subscription_id, _ = await upgrade(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, await stripe_stack.balance(user))
    for _ in range(times - 1):
        await change_to(stripe_stack, user, "basic")
        await change_to(stripe_stack, user, "pro")
    await change_to(stripe_stack, user, "basic")
    await deliver_all(stripe_stack, fake_stripe)
    debt = -await stripe_stack.balance(user)
    assert 890 <= debt <= 900 + times  # what pro gave beyond basic, for a period that has just begun
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 100 - debt


async def test_refund_after_a_downgrade_takes_no_credits_twice(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    _, paid = await upgrade(stripe_stack, fake_stripe, user)
    await change_to(stripe_stack, user, "basic")
    await deliver_all(stripe_stack, fake_stripe)
    left = await stripe_stack.balance(user)
    assert 99 <= left <= 101
    fake_stripe.refund(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert 98 <= await stripe_stack.balance(user) <= left
