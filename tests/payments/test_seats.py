"""Seats are sold of plans that have them: a quantity of any other plan would multiply its price and nothing else."""

from __future__ import annotations

import pytest

from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_price_changes import change_terms
from tests.payments.test_stripe_lifecycle import current_subscription, subscribe_and_pay


@pytest.mark.parametrize("model", ["flat", "usage"])
async def test_seats_of_a_plan_without_seats_are_refused_and_never_asked_for(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, model: str
) -> None:
    await change_terms(stripe_stack, "pro", pricing_model=model)
    user = await stripe_stack.create_user()
    async with await stripe_stack.client_for(user) as client:
        refused = await client.post("/subscriptions/pro", json={"quantity": 5})
        assert refused.status_code == 422, refused.text
        assert await stripe_stack.subscription(user) is None
        await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
        found = await current_subscription(stripe_stack, user)
        change = {"plan_id": "pro", "quantity": 5}
        refused = await client.post(f"/subscriptions/{found.id}/change", json=change)
    assert refused.status_code == 422, refused.text
    assert "quantity" in refused.text


@pytest.mark.parametrize(("model", "quantity"), [("flat", 1), ("usage", None)])
async def test_seats_are_not_taken_along_to_a_plan_without_seats(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, model: str, quantity: int | None
) -> None:
    await change_terms(stripe_stack, "basic", pricing_model="per_seat")
    await change_terms(stripe_stack, "pro", pricing_model=model)
    fake_stripe.metered = {"price_pro"} if model == "usage" else set()
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    found = await current_subscription(stripe_stack, user)
    async with await stripe_stack.client_for(user) as client:
        seats = await client.post(f"/subscriptions/{found.id}/change", json={"plan_id": "basic", "quantity": 3})
        assert seats.status_code == 200, seats.text
        changed = await client.post(f"/subscriptions/{found.id}/change", json={"plan_id": "pro"})
    assert changed.status_code == 200, changed.text
    (item,) = fake_stripe.objects[subscription_id]["items"]["data"]
    assert (item["price"]["id"], item.get("quantity")) == ("price_pro", quantity)
    assert (await current_subscription(stripe_stack, user)).quantity == 1
