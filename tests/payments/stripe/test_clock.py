"""What Stripe does by itself as time passes: drafts, trials, first payments that nobody makes, declined renewals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.ledger.accounts.users import User
from gateway.ledger.payments import provider_sync
from gateway.ledger.subscriptions import renewals
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import GRACE, PaymentStack
from tests.payments.stripe.fake.clock import DAY, HOUR
from tests.payments.stripe.test_past_due import change_terms
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


@pytest.fixture
def stack(stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch) -> PaymentStack:
    """The gateway's time is Stripe's."""

    async def time_at_stripe(_: Any) -> datetime:
        return datetime.fromtimestamp(fake_stripe.now, UTC)

    monkeypatch.setattr(provider_sync, "database_time", time_at_stripe)
    return stripe_stack


async def pass_time(stack: PaymentStack, fake_stripe: FakeStripe, user: User, seconds: int) -> None:
    """Step by step of an hour at most, each with its events and what the gateway's clock makes due."""
    until = fake_stripe.now + seconds
    while fake_stripe.now < until:
        before = len(fake_stripe.events)
        while fake_stripe.now < until and len(fake_stripe.events) == before:
            fake_stripe.clock.advance(min(HOUR, until - fake_stripe.now))
        await deliver_all(stack, fake_stripe)
        now = datetime.fromtimestamp(fake_stripe.now, UTC)
        await stack.expire(user, at=now)
        async with stack.database.transaction() as connection:
            if (found := await stack.subscription(user)) is not None:
                await renewals.advance(connection, found.id, now=now, grace=GRACE)


async def unpaid(stack: PaymentStack, fake_stripe: FakeStripe, intent_status: str) -> tuple[User, str, str]:
    """Who completed a checkout without a payment yet; gives the ids of session and subscription."""
    user = await stack.create_user()
    checkout = await stack.subscribe(user)
    session_id = checkout.provider_checkout_id or ""
    subscription_id = fake_stripe.complete_unpaid(session_id, intent_status=intent_status)
    await deliver_all(stack, fake_stripe)
    assert ((await current_subscription(stack, user)).status, await stack.balance(user)) == ("incomplete", 0)
    return user, session_id, subscription_id


async def test_quarter_under_the_clock_is_granted_month_by_month(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stack.create_user()
    await subscribe_and_pay(stack, fake_stripe, user)
    for months in range(1, 4):
        # The renewal's invoice is a draft now, half an hour into the period.
        await pass_time(stack, fake_stripe, user, 30 * DAY + (HOUR // 2 if months == 1 else -HOUR))
        state = await stack.billing_state(user)
        assert (state.status, state.balance) == ("active", 1000)
        assert len([row for row in state.payments if row[1] == "completed"]) == months
        await pass_time(stack, fake_stripe, user, HOUR)
    state = await stack.billing_state(user)
    assert [row[1] for row in state.payments] == ["completed"] * 4
    assert state.balance == 1000


@pytest.mark.parametrize("intent_status", ["processing", "requires_action"])
async def test_first_payment_that_nobody_makes_gives_nothing(
    stack: PaymentStack, fake_stripe: FakeStripe, intent_status: str
) -> None:
    user, _, subscription_id = await unpaid(stack, fake_stripe, intent_status)
    await pass_time(stack, fake_stripe, user, 23 * HOUR)
    assert fake_stripe.objects[subscription_id]["status"] == "incomplete_expired"
    found = await current_subscription(stack, user)
    assert (found.status, await stack.balance(user)) == ("expired", 0)
    assert (await stack.billing_state(user)).granted == 0
    await subscribe_and_pay(stack, fake_stripe, user)
    state = await stack.billing_state(user)
    assert (state.status, state.balance, state.granted) == ("active", 1000, 1000)


async def test_debit_that_arrives_in_time_begins_the_subscription(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user, session_id, _ = await unpaid(stack, fake_stripe, "processing")
    await pass_time(stack, fake_stripe, user, 20 * HOUR)
    assert [row[1] for row in (await stack.billing_state(user)).payments] == ["pending"]
    fake_stripe.settle_debit(session_id, succeeds=True)
    await deliver_all(stack, fake_stripe)
    state = await stack.billing_state(user)
    assert (state.status, state.balance, state.granted) == ("active", 1000, 1000)


async def test_debit_that_fails_gives_nothing(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user, session_id, _ = await unpaid(stack, fake_stripe, "processing")
    fake_stripe.settle_debit(session_id, succeeds=False)
    await deliver_all(stack, fake_stripe)
    await pass_time(stack, fake_stripe, user, 2 * DAY)
    state = await stack.billing_state(user)
    assert (state.status, state.granted) == ("expired", 0)
    assert [row[1] for row in state.payments] == ["failed"]


async def test_abandoned_checkout_expires_and_another_can_be_made(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stack.create_user()
    first = await stack.subscribe(user)
    await pass_time(stack, fake_stripe, user, DAY)
    assert fake_stripe.objects[first.provider_checkout_id or ""]["status"] == "expired"
    await subscribe_and_pay(stack, fake_stripe, user)
    assert (await stack.billing_state(user)).granted == 1000


@pytest.mark.parametrize("card_is_mended", [True, False])
async def test_declined_renewal_is_tried_again_until_it_is_paid_or_given_up(
    stack: PaymentStack, fake_stripe: FakeStripe, card_is_mended: bool
) -> None:
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user)
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = "declined"
    await pass_time(stack, fake_stripe, user, 30 * DAY + 2 * HOUR)
    assert (await stack.billing_state(user)).status == "past_due"
    if card_is_mended:
        fake_stripe.cards.clear()
    await pass_time(stack, fake_stripe, user, 15 * DAY)
    state = await stack.billing_state(user)
    if card_is_mended:
        assert (state.status, state.balance) == ("active", 1000)
    else:
        assert (fake_stripe.objects[subscription_id]["status"], state.balance) == ("canceled", 0)
        assert state.status in ("expired", "canceled")
    assert len([row for row in state.payments if row[1] == "completed"]) == 1 + card_is_mended


async def test_trial_ends_in_a_paid_period(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    await change_terms(stack, "pro", trial_period_days=7)
    user = await stack.create_user()
    await subscribe_and_pay(stack, fake_stripe, user)
    assert ((await current_subscription(stack, user)).status, await stack.balance(user)) == ("trialing", 1000)
    await pass_time(stack, fake_stripe, user, 7 * DAY - 1)
    assert "customer.subscription.trial_will_end" in {event["type"] for event in fake_stripe.events}
    await pass_time(stack, fake_stripe, user, HOUR // 2)
    assert ((await current_subscription(stack, user)).status, await stack.balance(user)) == ("active", 1000)
    await pass_time(stack, fake_stripe, user, HOUR)
    state = await stack.billing_state(user)
    assert (state.status, state.balance) == ("active", 1000)
    assert [row[1:3] for row in state.payments] == [("completed", "29.99")]


async def test_answers_are_repeated_for_a_day(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    first = await stack.provider.create_customer("u", email="ada@example.com", name=None)
    fake_stripe.now += DAY - 1
    assert await stack.provider.create_customer("u", email="ada@example.com", name=None) == first
    fake_stripe.now += 2
    assert await stack.provider.create_customer("u", email="ada@example.com", name=None) != first
