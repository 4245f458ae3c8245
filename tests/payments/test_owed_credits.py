"""What was granted for money goes with the money: taken back in proportion, and owed where it was used."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.payments.payments import Payment
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.stripe.test_past_due import buy_pack
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


async def test_dispute_that_is_won_gives_back_what_it_took_and_no_longer_than_it_was_for(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """What the dispute took unused ends with its period; what a later period had to pay for is given back."""
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, 400)
    first = await current_subscription(stripe_stack, user)
    paid = only(await stripe_stack.payments(user), "subscription")
    dispute_id = fake_stripe.dispute(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    await stripe_stack.expire(user, at=first.current_period_end)
    assert await stripe_stack.balance(user) == 600
    fake_stripe.decide(dispute_id, "won")
    await deliver_all(stripe_stack, fake_stripe)
    await stripe_stack.expire(user, at=first.current_period_end)
    assert await stripe_stack.balance(user) == 1000


async def test_refund_that_failed_hides_no_later_one(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    paid = only(await stripe_stack.payments(user), "subscription")
    refund = fake_stripe.refund(paid.provider_payment_id or "", 1000)
    await deliver_all(stripe_stack, fake_stripe)
    fake_stripe.fail_refund(refund)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000
    fake_stripe.refund(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 0


async def test_purchased_credits_are_those_that_the_buyer_has_paid_for(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    for _ in range(2):
        await buy_pack(stripe_stack, fake_stripe, user)
    one, other = (row for row in await stripe_stack.payments(user) if row.transaction_type == "credits")
    assert await purchased(stripe_stack, user) == 200
    refund = fake_stripe.refund(one.provider_payment_id or "")
    fake_stripe.refund(other.provider_payment_id or "", 250)
    await deliver_all(stripe_stack, fake_stripe)
    assert await purchased(stripe_stack, user) == 50
    fake_stripe.fail_refund(refund)
    await deliver_all(stripe_stack, fake_stripe)
    assert await purchased(stripe_stack, user) == 150


async def purchased(stack: PaymentStack, user: User) -> int:
    async with stack.database.read() as connection:
        found = await grants.get_balance(connection, user.id)
    assert found is not None
    return found.total_credits_purchased


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


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("is_dispute", [False, True])
async def test_payment_that_goes_back_takes_credits_also_where_a_smaller_plan_gave_their_price_back_as_balance(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, is_dispute: bool, is_first: bool
) -> None:
    """The customer has the difference as balance at Stripe, and as money. Whichever comes first, both take credits."""
    user = await stripe_stack.create_user()
    _, paid = await upgrade(stripe_stack, fake_stripe, user)
    if not is_first:
        await change_to(stripe_stack, user, "basic")
        await deliver_all(stripe_stack, fake_stripe)
        assert 99 <= await stripe_stack.balance(user) <= 101
    if is_dispute:
        dispute_id = fake_stripe.dispute(paid.provider_payment_id or "")
    else:
        refund = fake_stripe.refund(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    if is_first:
        assert await stripe_stack.balance(user) == 100
        await change_to(stripe_stack, user, "basic")
        await deliver_all(stripe_stack, fake_stripe)
    left = await stripe_stack.balance(user)
    assert 99 <= left + paid.credits_awarded <= 101

    if is_dispute:
        fake_stripe.decide(dispute_id, "won")
    else:
        fake_stripe.fail_refund(refund)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == left + paid.credits_awarded


async def test_refund_after_a_change_to_a_plan_of_fewer_credits_for_the_same_price_takes_none_twice(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """No money went back for what the change took."""
    await sell(stripe_stack, fake_stripe, "other", price=Decimal("29.99"), credits=100)
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    paid = only(await stripe_stack.payments(user), "subscription")
    await change_to(stripe_stack, user, "other")
    await deliver_all(stripe_stack, fake_stripe)
    assert 99 <= await stripe_stack.balance(user) <= 101
    fake_stripe.refund(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 0


@pytest.mark.parametrize("is_dispute", [False, True])
async def test_payment_that_goes_back_takes_no_credits_that_balance_at_the_provider_paid_for(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, is_dispute: bool
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await change_to(stripe_stack, user, "basic")  # 20.00 of balance
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    await change_to(stripe_stack, user, "pro")
    await deliver_all(stripe_stack, fake_stripe)
    (paid,) = (row for row in await stripe_stack.payments(user) if row.amount < Decimal("20.00"))
    assert 890 <= paid.credits_awarded <= 900
    had = await stripe_stack.balance(user)
    if is_dispute:
        fake_stripe.dispute(paid.provider_payment_id or "")
    else:
        fake_stripe.refund(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    taken = had - await stripe_stack.balance(user)
    assert abs(taken - paid.credits_awarded * paid.amount / Decimal("20.00")) <= 1


@pytest.mark.parametrize("is_upgrade_disputed", [False, True])
async def test_payments_of_a_renewal_and_an_upgrade_that_are_told_of_together_each_take_their_own_credits(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, is_upgrade_disputed: bool
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    earlier = {row.id for row in await stripe_stack.payments(user)}
    had = await stripe_stack.balance(user)
    fake_stripe.renew(subscription_id)  # which nobody here knows of when the plan is changed
    await change_to(stripe_stack, user, "pro")
    await deliver_all(stripe_stack, fake_stripe)
    new = [row for row in await stripe_stack.payments(user) if row.id not in earlier]
    renewal, change = sorted(new, key=lambda row: row.amount)
    assert renewal.credits_awarded == had
    assert had + renewal.credits_awarded + change.credits_awarded == await stripe_stack.balance(user)

    disputed, other = (change, renewal) if is_upgrade_disputed else (renewal, change)
    fake_stripe.dispute(disputed.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == had + other.credits_awarded


@pytest.mark.parametrize("is_renewed", [False, True])
async def test_dispute_of_a_change_that_gave_nothing_takes_none_of_a_later_change(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, is_renewed: bool
) -> None:
    await sell(stripe_stack, fake_stripe, "dear", price=Decimal("39.99"), credits=500)
    await sell(stripe_stack, fake_stripe, "cheap", price=Decimal("19.99"), credits=3000)
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await change_to(stripe_stack, user, "dear")
    await deliver_all(stripe_stack, fake_stripe)
    (paid,) = (row for row in await stripe_stack.payments(user) if row.amount == Decimal("10.00"))
    assert paid.credits_awarded == 0
    if is_renewed:
        fake_stripe.renew(subscription_id)
        await deliver_all(stripe_stack, fake_stripe)
    before = await stripe_stack.balance(user)
    await change_to(stripe_stack, user, "cheap")
    await deliver_all(stripe_stack, fake_stripe)
    given = await stripe_stack.balance(user)
    assert given > before

    fake_stripe.dispute(paid.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == given
    (disputed,) = (row for row in await stripe_stack.payments(user) if row.id == paid.id)
    assert (disputed.status, disputed.credits_awarded, disputed.credits_withdrawn) == ("disputed", 0, 0)


async def sell(stack: PaymentStack, fake_stripe: FakeStripe, plan_id: str, *, price: Decimal, credits: int) -> None:
    fake_stripe.prices[f"price_{plan_id}"] = int(price * 100)
    terms = PlanTerms(
        name=plan_id.title(),
        price=price,
        credits_per_period=credits,
        provider_ids={"stripe_price_id": f"price_{plan_id}"},
    )
    async with stack.database.transaction() as connection:
        await plans.create(connection, terms, plan_id=plan_id)
