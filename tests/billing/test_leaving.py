"""Deleted accounts are not charged on: their subscriptions end at the provider, whenever it can be reached."""

from __future__ import annotations

from gateway.ledger.accounts import User
from gateway.workers.leaving import Leaver
from tests.billing.fake_lemon_squeezy import FakeLemonSqueezy
from tests.billing.fake_stripe import FakeStripe
from tests.billing.market import Market
from tests.billing.test_lemon_squeezy_life import begun as begun_at_lemon_squeezy
from tests.billing.test_lemon_squeezy_life import store, world  # noqa: F401 - fixtures
from tests.billing.test_stripe_life import begun, current, hear_all, status_of


async def test_the_subscription_of_a_deleted_account_ends_at_the_provider_once_it_can_be_reached(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market, leaver = stripe_market, Leaver(stripe_market.database, stripe_market.provider)
    market.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    user, other = await market.a_user(), await market.a_user()
    remote, kept = await begun(market, stripe_world, user), await begun(market, stripe_world, other)
    stripe_world.down = True
    await delete(market, user)  # which waits for no provider
    await leaver.run_once()
    assert stripe_world.objects[remote]["status"] == "active"

    stripe_world.down = False
    await leaver.run_once()
    assert stripe_world.objects[remote]["status"] == "canceled"
    assert stripe_world.objects[kept]["status"] == "active"
    assert await status_of(market, user) == "canceled"
    asked = len(stripe_world.requests)
    await leaver.run_once()
    assert len(stripe_world.requests) == asked


async def test_what_is_paid_for_after_the_account_was_deleted_ends_too(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market = stripe_market
    user = await market.a_user()
    checkout = await market.subscribe(user)
    await delete(market, user)
    stripe_world.complete(checkout.provider_checkout_id or "")
    await hear_all(market, stripe_world)
    assert await status_of(market, user) == "active"
    await Leaver(market.database, market.provider).run_once()
    assert await status_of(market, user) == "canceled"
    assert [each["status"] for each in stripe_world.objects.values() if each["object"] == "subscription"] == [
        "canceled"
    ]


async def test_a_subscription_that_the_provider_has_lost_is_over(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    user = await stripe_market.a_user()
    del stripe_world.objects[await begun(stripe_market, stripe_world, user)]
    await delete(stripe_market, user)
    await Leaver(stripe_market.database, stripe_market.provider).run_once()
    assert await status_of(stripe_market, user) == "canceled"


async def test_where_it_cannot_end_at_once_it_ends_with_its_period(
    store: Market,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.a_user()
    remote = await begun_at_lemon_squeezy(store, world, user)
    await delete(store, user)
    await Leaver(store.database, store.provider).run_once()
    assert remote["attributes"]["cancelled"] is True
    assert (await current(store, user)).cancel_at_period_end


async def delete(market: Market, user: User) -> None:
    async with await market.signed_in(user) as client:
        assert (await client.delete("/me")).status_code == 204
