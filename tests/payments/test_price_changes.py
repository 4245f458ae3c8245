"""Subscribers at a former price of their plan keep renewing it, in the version that they bought or follow.

Seats are sold of plans that have them: a quantity of any other plan would multiply its price and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest

from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.subscriptions import renewals
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import PriceChange
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay

NEW_PRICE = "price_pro_2027"


async def raise_price(
    stack: PaymentStack, fake_stripe: FakeStripe, *, subscribers: Literal["keep", "migrate"] | None
) -> None:
    """`pro` then costs 39.99 for 2000 credits."""
    fake_stripe.prices[NEW_PRICE] = 3999
    async with stack.database.transaction() as connection:
        pro = await plans.get(connection, "pro")
        assert pro is not None
        ids = {**pro.terms.provider_ids, "stripe_price_id": NEW_PRICE}
        terms = replace(pro.terms, price=Decimal("39.99"), credits_per_period=2000, provider_ids=ids)
        await plans.change(connection, "pro", terms, subscribers=subscribers)


async def version_of(stack: PaymentStack, user: User) -> tuple[str, int, bool]:
    found = await current_subscription(stack, user)
    return found.plan_id, found.plan_version, found.keeps_version


@pytest.mark.parametrize(
    ("subscribers", "version", "granted"), [("keep", ("pro", 1, True), 2000), ("migrate", ("pro", 2, False), 3000)]
)
async def test_renewal_at_a_former_price_finds_the_plan_and_the_version_of_the_subscription(
    stripe_stack: PaymentStack,
    fake_stripe: FakeStripe,
    subscribers: Literal["keep", "migrate"],
    version: tuple[str, int, bool],
    granted: int,
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await raise_price(stripe_stack, fake_stripe, subscribers=subscribers)
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await version_of(stripe_stack, user) == version
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted) == ("active", granted)
    assert {row.plan_id for row in await stripe_stack.payments(user)} == {"pro"}


async def test_checkout_that_is_paid_after_the_price_changed_is_applied(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)
    await raise_price(stripe_stack, fake_stripe, subscribers="keep")
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await version_of(stripe_stack, user) == ("pro", 1, True)
    assert await stripe_stack.balance(user) == 1000


@pytest.mark.parametrize("subscribers", ["keep", "migrate", None])
async def test_former_checkout_gives_what_it_sold_also_where_its_buyer_began_another_since(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, subscribers: Literal["keep", "migrate"] | None
) -> None:
    user = await stripe_stack.create_user()
    former = await stripe_stack.subscribe(user)
    await raise_price(stripe_stack, fake_stripe, subscribers=subscribers)
    latter = await stripe_stack.subscribe(user)
    fake_stripe.pay_checkout(former.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert (await version_of(stripe_stack, user), await stripe_stack.balance(user)) == (("pro", 1, True), 1000)
    fake_stripe.pay_checkout(latter.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await version_of(stripe_stack, user) == ("pro", 2, False)


async def test_checkout_that_was_given_up_and_is_paid_after_all_gives_what_it_sold(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)
    async with stripe_stack.database.transaction() as connection:
        assert await renewals.advance(
            connection, checkout.subscription_id or checkout.id, now=now() + timedelta(days=2), grace=timedelta(days=3)
        )
    await raise_price(stripe_stack, fake_stripe, subscribers=None)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert (await version_of(stripe_stack, user), await stripe_stack.balance(user)) == (("pro", 1, True), 1000)


async def test_change_to_a_former_price_gives_the_version_that_had_it(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    await raise_price(stripe_stack, fake_stripe, subscribers="migrate")
    await stripe_stack.provider.change_plan(subscription_id, PriceChange("price_pro", 1, "by the operator"))
    await deliver_all(stripe_stack, fake_stripe)
    assert await version_of(stripe_stack, user) == ("pro", 1, True)
    await stripe_stack.provider.change_plan(subscription_id, PriceChange(NEW_PRICE, 1, "by the user"))
    await deliver_all(stripe_stack, fake_stripe)
    assert await version_of(stripe_stack, user) == ("pro", 2, False)


async def test_wording_of_a_plan_changes_without_ending_what_subscribers_keep(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await raise_price(stripe_stack, fake_stripe, subscribers="keep")
    for wording in ({"description": "nicer text"}, {"sort_order": 7}, {"name": "Pro 2027"}, {"is_active": False}):
        await change_terms(stripe_stack, "pro", **wording)
        assert await version_of(stripe_stack, user) == ("pro", 1, True)


async def test_price_that_rises_leaves_a_subscriber_of_the_provider_at_the_price_it_charges(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await raise_price(stripe_stack, fake_stripe, subscribers=None)
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await version_of(stripe_stack, user) == ("pro", 1, True)
    assert (await stripe_stack.billing_state(user)).granted == 2000


async def test_kept_subscriber_changes_seats_at_the_price_that_he_bought_also_of_a_plan_no_longer_sold(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    await change_terms(stripe_stack, "pro", pricing_model="per_seat")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await raise_price(stripe_stack, fake_stripe, subscribers="keep")
    await change_terms(stripe_stack, "pro", is_active=False)
    found = await change_seats(stripe_stack, user, 3)
    assert charged(fake_stripe, subscription_id) == ("price_pro", 3)
    assert await version_of(stripe_stack, user) == ("pro", found.plan_version, True)


async def change_seats(stack: PaymentStack, user: User, seats: int) -> StoredSubscription:
    found = await current_subscription(stack, user)
    async with await stack.client_for(user) as client:
        changed = await client.post(f"/subscriptions/{found.id}/change", json={"plan_id": "pro", "quantity": seats})
    assert changed.status_code == 200, changed.text
    return found


def charged(fake_stripe: FakeStripe, subscription_id: str) -> tuple[str, int]:
    """The price's id at Stripe, and the seats, of its only item."""
    (item,) = fake_stripe.objects[subscription_id]["items"]["data"]
    return item["price"]["id"], item["quantity"]


async def change_terms(stack: PaymentStack, plan_id: str, **changes: Any) -> None:
    async with stack.database.transaction() as connection:
        plan = await plans.get(connection, plan_id)
        assert plan is not None
        await plans.change(connection, plan_id, replace(plan.terms, **changes))


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


@pytest.mark.parametrize("order", [("id", "price"), ("price", "id")])
async def test_subscriber_keeps_the_price_whichever_of_amount_and_id_is_saved_first(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, order: tuple[str, str]
) -> None:
    await change_terms(stripe_stack, "pro", pricing_model="per_seat")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    fake_stripe.prices[NEW_PRICE] = 3999
    async with stripe_stack.database.read() as connection:
        pro = await plans.get(connection, "pro")
    assert pro is not None
    ids = {**pro.terms.provider_ids, "stripe_price_id": NEW_PRICE}
    saved: dict[str, dict[str, Any]] = {"id": {"provider_ids": ids}, "price": {"price": Decimal("39.99")}}
    for step in order:
        await change_terms(stripe_stack, "pro", **saved[step])
    await change_seats(stripe_stack, user, 3)
    assert charged(fake_stripe, subscription_id) == ("price_pro", 3)
