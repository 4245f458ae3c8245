"""A change with the period's end is charged and granted with the next period, once, and can be undone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.ledger.accounts.users import User
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


async def ask(stack: PaymentStack, user: User, verb: str, **body: Any) -> httpx.Response:
    found = await current_subscription(stack, user)
    async with await stack.client_for(user) as client:
        return await client.post(f"/subscriptions/{found.id}/{verb}", json=body or None)


async def scheduled(stack: PaymentStack, fake_stripe: FakeStripe) -> tuple[User, str]:
    """A subscriber to `pro` who is to be on `basic` from the next period on."""
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user)
    answer = await ask(stack, user, "change", plan_id="basic", at_period_end=True)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["plan_id"], answer.json()["next_plan_id"]) == ("pro", "basic")
    return user, subscription_id


async def test_scheduled_downgrade_takes_effect_with_the_next_period(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user, subscription_id = await scheduled(stripe_stack, fake_stripe)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000
    assert [str(row.amount) for row in await stripe_stack.payments(user)] == ["29.99"]
    async with await stripe_stack.client_for(user) as client:
        shown = (await client.get("/subscriptions/me")).json()
    assert (shown["next_plan_id"], shown["next_quantity"]) == ("basic", 1)
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    after = await current_subscription(stripe_stack, user)
    assert (after.plan_id, after.next_plan_id, after.status) == ("basic", None, "active")
    assert (await stripe_stack.billing_state(user)).granted == 1100
    assert sorted(str(row.amount) for row in await stripe_stack.payments(user)) == ["29.99", "9.99"]
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.billing_state(user)).granted == 1200


async def test_scheduled_downgrade_is_undone(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user, subscription_id = await scheduled(stripe_stack, fake_stripe)
    undone = await ask(stripe_stack, user, "undo-change")
    assert (undone.status_code, undone.json()["next_plan_id"]) == (200, None)
    assert (await ask(stripe_stack, user, "undo-change")).status_code == 409
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "pro"
    assert (await stripe_stack.billing_state(user)).granted == 2000


async def test_another_wish_replaces_the_scheduled_one(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user, subscription_id = await scheduled(stripe_stack, fake_stripe)
    again = await ask(stripe_stack, user, "change", plan_id="pro", at_period_end=True)
    assert (again.status_code, again.json()["next_plan_id"]) == (200, None)
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "pro"


async def test_cancellation_and_change_at_once_end_the_schedule(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user, subscription_id = await scheduled(stripe_stack, fake_stripe)
    changed = await ask(stripe_stack, user, "change", plan_id="basic")
    assert (changed.status_code, changed.json()["plan_id"], changed.json()["next_plan_id"]) == (200, "basic", None)
    await ask(stripe_stack, user, "change", plan_id="pro", at_period_end=True)
    found = await current_subscription(stripe_stack, user)
    async with await stripe_stack.client_for(user) as client:
        ended = await client.delete(f"/subscriptions/{found.id}")
    assert (ended.status_code, ended.json()["cancel_at_period_end"], ended.json()["next_plan_id"]) == (200, True, None)
    assert fake_stripe.objects[subscription_id]["schedule"] is None


async def test_refused_upgrade_leaves_the_scheduled_downgrade(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    await ask(stripe_stack, user, "change", plan_id="pro", at_period_end=True)
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = "declined"
    assert (await ask(stripe_stack, user, "change", plan_id="pro")).status_code == 409
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).next_plan_id == "pro"


@pytest.mark.parametrize("order", [1, -1])
async def test_events_of_a_schedule_in_any_order_and_number_charge_and_grant_once(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, order: int
) -> None:
    user, subscription_id = await scheduled(stripe_stack, fake_stripe)
    draft = fake_stripe.begin_renewal(subscription_id)
    for event in fake_stripe.new_events()[::order]:
        await stripe_stack.deliver(*signed(event, STRIPE_SECRETS[0]))
    await stripe_stack.process_all()
    fake_stripe.charge_renewal(draft)
    events = fake_stripe.new_events()
    for event in (*events[::order], *events):
        await stripe_stack.deliver(*signed({**event, "id": f"{event['id']}{order}"}, STRIPE_SECRETS[0]))
        await stripe_stack.process_all()
    state = await stripe_stack.billing_state(user)
    assert (state.plan_id, state.granted) == ("basic", 1100)
    assert sorted(payment[2] for payment in state.payments) == ["29.99", "9.99"]


async def test_scheduled_change_leaves_other_items_as_they_are(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    fake_stripe.prices["price_meter"] = 0
    fake_stripe.metered.add("price_meter")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    fake_stripe.add_item(subscription_id, "price_meter", first=True, quantity=None)
    await ask(stripe_stack, user, "change", plan_id="basic", at_period_end=True)
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "basic"
    sold = [each["price"]["id"] for each in fake_stripe.objects[subscription_id]["items"]["data"]]
    assert sold == ["price_meter", "price_basic"]
