"""A renewal whose payment is under way leaves no gap, and one that fails leaves no gift."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.credits import expiry
from gateway.ledger.payments import provider_sync
from gateway.ledger.subscriptions import lifecycle
from gateway.payments.provider import PriceChange
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from tests.guarantees.simulation.stripe_lives import Calls
from tests.payments.fake_stripe import FakeStripe, Object
from tests.payments.payment_stack import GRACE, PaymentStack, only
from tests.payments.stripe.test_past_due import admitted
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, spend, subscribe_and_pay
from tests.workers.conftest import Backend, backend  # noqa: F401 - the fixture of both stores

MINUTE = timedelta(minutes=1)


async def renewing(stack: PaymentStack, fake_stripe: FakeStripe) -> tuple[User, Object]:
    """A subscriber to `pro` with 400 of 1000 credits left, whose period has ended with the next invoice a draft."""
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user)
    await spend(stack, user, 600)
    ended = (await current_subscription(stack, user)).current_period_end
    draft = fake_stripe.begin_renewal(subscription_id)
    await deliver_all(stack, fake_stripe)
    await stack.expire(user, at=ended)
    return user, draft


def subscription_of(invoice: Object) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


@pytest.mark.parametrize("heard_after", [0, 5, 35, 65], ids=lambda minutes: f"{minutes} minutes")
async def test_no_call_is_refused_while_the_invoice_is_a_draft_for_65_minutes(
    stripe_stack: PaymentStack,
    fake_stripe: FakeStripe,
    backend: Backend,  # noqa: F811 - the fixture
    heard_after: int,
) -> None:
    """Each call passes the check of its account, and is admitted on the balance that Redis knows.

    Until the draft is heard of the subscriber lives on what is left of the period before. The workers run meanwhile.
    """
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, 600)
    began = (await current_subscription(stripe_stack, user)).current_period_end
    draft, calls = fake_stripe.begin_renewal(subscription_id), Calls(backend, user)
    for minute in range(0, 66, 5):
        at = began + minute * MINUTE
        keeper = CreditExpiryWorker(backend.database, backend.journal, grace=GRACE, now=lambda at=at: at)  # type: ignore[misc] # bound at once
        await keeper.run_once()
        if minute == heard_after:
            await deliver_all(stripe_stack, fake_stripe)
            spent_before = calls.spent
            await keeper.run_once()
        assert (await admitted(stripe_stack, user, at=at)).status == "active"
        assert await calls.call(10, at=at), f"refused after {minute} minutes"
        await calls.end()
        await calls.record()
        assert await stripe_stack.balance(user) == (
            400 - calls.spent if minute < heard_after else 1000 - calls.spent + spent_before
        )
    fake_stripe.charge_renewal(draft)
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted, calls.spent) == ("active", 2000, 140)
    assert state.balance == 860 + spent_before


async def test_credits_of_a_period_end_with_it_where_no_other_is_to_come(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Cancelled, or not billed by a provider."""
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await stripe_stack.provider.cancel(subscription_id, at_period_end=True)
    await deliver_all(stripe_stack, fake_stripe)
    await stripe_stack.expire(user, at=(await current_subscription(stripe_stack, user)).current_period_end)
    assert await stripe_stack.balance(user) == 0
    async with stripe_stack.database.transaction() as connection:
        own = await users.create(connection, f"{uuid4().hex}@example.com")
        manual = await lifecycle.start(connection, own.id, plan_id="basic", now=now())
    await stripe_stack.expire(own, at=manual.current_period_end)
    assert await stripe_stack.balance(own) == 0


async def test_grant_that_waits_is_not_due(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    """So that those who wait take no place in the worker's batch."""
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    ended = (await current_subscription(stripe_stack, user)).current_period_end
    for at, is_due in ((ended, False), (ended + GRACE, True)):
        async with stripe_stack.database.read() as connection:
            due = await expiry.list_due_accounts(connection, now=at, grace=GRACE, limit=10_000)
        assert (user.id in due) is is_due


async def test_advance_is_taken_back_when_the_payment_fails_and_granted_once_it_is_paid(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user, draft = await renewing(stripe_stack, fake_stripe)
    await spend(stripe_stack, user, 30)
    fake_stripe.charge_renewal(draft, succeeds=False)
    await deliver_all(stripe_stack, fake_stripe)
    late = await current_subscription(stripe_stack, user)
    assert (late.status, await stripe_stack.balance(user)) == ("past_due", -30)
    assert late.past_due_since is not None
    assert late.past_due_since <= now()
    fake_stripe.recover(draft["id"])
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.balance) == ("active", 970)
    payment = next(row for row in await stripe_stack.payments(user) if row.provider_payment_id == draft["id"])
    assert payment.credits_awarded == 1000
    fake_stripe.refund(draft["id"])
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == -30


async def test_change_that_gives_nothing_pays_for_no_advance_that_was_taken_back(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """A dispute of its payment takes no credits either."""
    user, draft = await renewing(stripe_stack, fake_stripe)
    fake_stripe.charge_renewal(draft, succeeds=False)
    await deliver_all(stripe_stack, fake_stripe)
    fake_stripe.recover(draft["id"])
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    fake_stripe.prices["price_same"] = 3999
    async with stripe_stack.database.transaction() as connection:
        terms = replace(
            stripe_stack.plans["pro"].terms,
            name="Pro plus",
            price=Decimal("39.99"),
            provider_ids={"stripe_price_id": "price_same"},
        )
        await plans.create(connection, terms, plan_id="pro-plus")
    change = PriceChange("price_same", 1, "once")
    await stripe_stack.provider.change_plan(found.provider_subscription_id or "", change)
    await deliver_all(stripe_stack, fake_stripe)
    rows = {row.amount: row for row in await stripe_stack.payments(user)}
    assert (rows[Decimal("10.00")].credits_awarded, rows[Decimal("10.00")].status) == (0, "completed")
    fake_stripe.dispute(rows[Decimal("10.00")].provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000


async def test_renewal_that_failed_at_once_is_no_advance(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    found = await current_subscription(stripe_stack, user)
    assert only(await stripe_stack.payments(user), "subscription").status == "completed"
    draft = fake_stripe.begin_renewal(subscription_id)
    fake_stripe.charge_renewal(draft, succeeds=False)  # before anybody heard of the draft
    await deliver_all(stripe_stack, fake_stripe)
    late = await current_subscription(stripe_stack, user)
    assert (late.status, late.current_period_end) == ("past_due", found.current_period_end)
    assert (await stripe_stack.billing_state(user)).granted == 1000


async def test_paused_collection_advances_nothing(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    fake_stripe.objects[subscription_id]["pause_collection"] = {"behavior": "keep_as_draft"}
    ended = (await current_subscription(stripe_stack, user)).current_period_end
    monkeypatch.setattr(provider_sync, "database_time", AsyncMock(return_value=ended + MINUTE))
    fake_stripe.begin_renewal(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.billing_state(user)).granted == 1000
    await stripe_stack.expire(user, at=ended + MINUTE)  # no payment of the next period is under way
    assert await stripe_stack.balance(user) == 0


@pytest.mark.parametrize("succeeds", [True, False])
async def test_renewal_by_a_debit_that_takes_days_is_advanced_until_its_outcome(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, succeeds: bool
) -> None:
    """Stripe has attempted to charge such an invoice, which is open, and keeps the subscription active."""
    user, draft = await renewing(stripe_stack, fake_stripe)
    draft.update(status="open", attempted=True)
    intent = fake_stripe.open_intent(draft, status="processing")
    fake_stripe.attach_intent(draft, intent)
    fake_stripe.emit("invoice.finalized", draft)
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    assert (found.status, found.past_due_since, await stripe_stack.balance(user)) == ("active", None, 1000)
    assert {row.status for row in await stripe_stack.payments(user)} == {"completed", "pending"}
    intent.update(status="requires_payment_method", last_payment_error={"message": "insufficient funds"})
    fake_stripe.charge_renewal(draft, succeeds=succeeds)
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    expected = ("active", 1000, "completed") if succeeds else ("past_due", 0, "failed")
    newest = max(await stripe_stack.payments(user), key=lambda row: row.created_at)
    assert (found.status, await stripe_stack.balance(user), newest.status) == expected


async def test_advance_is_taken_back_when_the_subscription_ends_before_it_is_charged(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Stripe keeps the draft, and charges it no more."""
    user, draft = await renewing(stripe_stack, fake_stripe)
    await spend(stripe_stack, user, 30)
    fake_stripe.end(subscription_of(draft))
    await deliver_all(stripe_stack, fake_stripe)
    ended = await current_subscription(stripe_stack, user)
    assert (ended.status, ended.past_due_since, await stripe_stack.balance(user)) == ("canceled", None, -30)
    fake_stripe.pay(draft)  # the seller collects it by hand
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 970


async def test_advance_is_taken_back_when_another_subscription_takes_the_place_of_its_own(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """It was begun in another window, and ends the first one at Stripe."""
    user = await stripe_stack.create_user()
    begun = await stripe_stack.subscribe(user, "basic")
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, 1000)
    fake_stripe.begin_renewal(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    fake_stripe.pay_checkout(begun.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1100
    fake_stripe.end(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 100


@pytest.mark.parametrize(("days_after_end", "is_ending"), [(0, True), (60, False)])
async def test_cancel_at_ends_the_period_that_it_lies_in(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, days_after_end: int, is_ending: bool
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    at_stripe = fake_stripe.objects[subscription_id]
    at_stripe["cancel_at"] = at_stripe["items"]["data"][0]["current_period_end"] + days_after_end * 86_400
    await stripe_stack.provider.resume(subscription_id)  # any change makes Stripe send an event
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).cancel_at_period_end is is_ending
