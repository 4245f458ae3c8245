"""A subscription's life at Stripe, over HTTP both ways: what we ask its API, what it posts to us, signed by its SDK."""

from __future__ import annotations

from gateway.clock import now
from tests.billing.conftest import STRIPE_SECRETS
from tests.billing.fake_stripe import FakeStripe, signed
from tests.billing.market import Market, only


async def test_a_checkout_paid_for_becomes_an_active_subscription_with_its_credits(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    user = await stripe_market.a_user()
    checkout = await stripe_market.subscribe(user)
    assert checkout.url is not None
    assert checkout.url.startswith("https://checkout.test/")
    waiting = await stripe_market.subscription(user)
    assert waiting is not None
    assert waiting.status == "incomplete"
    assert await stripe_market.balance(user) == 0

    stripe_world.complete(checkout.provider_checkout_id or "")
    await hear_all(stripe_market, stripe_world)

    found = await stripe_market.subscription(user)
    assert found is not None
    assert (found.status, found.plan_id, found.provider) == ("active", "pro", "stripe")
    assert found.current_period_end > now()
    assert await stripe_market.balance(user) == 1000
    paid = only(await stripe_market.payments(user), "subscription")
    assert (str(paid.amount), paid.status, paid.credits_awarded, paid.payment_method) == (
        "29.99",
        "completed",
        1000,
        "card:visa",
    )


async def hear_all(market: Market, world: FakeStripe) -> None:
    """All of Stripe's events so far are delivered, in order, and acted on."""
    for event in world.events:
        await market.deliver(*signed(event, STRIPE_SECRETS[0]))
    await market.work_off()
    assert not await market.events("failed")
