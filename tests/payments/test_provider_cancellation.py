"""Nobody is charged for what is over: with the account, or as another took over, it ends at the provider too."""

from __future__ import annotations

from gateway.ledger.accounts.users import User
from gateway.ledger.subscriptions import subscriptions
from gateway.workers.billing.provider_cancellation import ProviderCancellationWorker
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.market import Market
from tests.payments.test_lemon_squeezy_life import begun as begun_at_lemon_squeezy
from tests.payments.test_lemon_squeezy_life import hear_all as hear_all_of_lemon_squeezy
from tests.payments.test_lemon_squeezy_life import store, world  # noqa: F401 - fixtures
from tests.payments.test_stripe_life import begun, current, hear_all, status_of


async def test_the_subscription_of_a_deleted_account_ends_at_the_provider_once_it_can_be_reached(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market, leaver = stripe_market, ProviderCancellationWorker(stripe_market.database, stripe_market.provider)
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
    await ProviderCancellationWorker(market.database, market.provider).run_once()
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
    await ProviderCancellationWorker(stripe_market.database, stripe_market.provider).run_once()
    assert await status_of(stripe_market, user) == "canceled"


async def test_where_it_cannot_end_at_once_it_ends_with_its_period(
    store: Market,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.a_user()
    remote = await begun_at_lemon_squeezy(store, world, user)
    await delete(store, user)
    await ProviderCancellationWorker(store.database, store.provider).run_once()
    assert remote["attributes"]["cancelled"] is True
    assert (await current(store, user)).cancel_at_period_end


async def test_of_two_that_are_paid_for_the_one_taken_over_ends_at_the_provider(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market = stripe_market
    user = await market.a_user()
    first, second = [(await market.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in (first, second):
        stripe_world.complete(checkout)
        await hear_all(market, stripe_world)
    earlier, later = (stripe_world.objects[checkout]["subscription"] for checkout in (first, second))
    stripe_world.renew(earlier)
    await hear_all(market, stripe_world)  # late for us, and paid for
    assert await held(market, user) == {earlier: "canceled", later: "active"}
    standing = await market.standing(user)
    assert (standing.granted, len(standing.payments)) == (100 + 1000 + 100, 3)

    leaver = ProviderCancellationWorker(market.database, market.provider)
    await leaver.run_once()
    assert [stripe_world.objects[each]["status"] for each in (earlier, later)] == ["canceled", "active"]
    await hear_all(market, stripe_world)
    asked = len(stripe_world.requests)
    await leaver.run_once()
    assert len(stripe_world.requests) == asked
    assert await held(market, user) == {earlier: "canceled", later: "active"}
    assert await market.standing(user) == standing


async def test_of_one_plan_paid_for_in_two_windows_one_subscription_ends_and_its_money_can_be_given_back(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market = stripe_market
    user = await market.a_user()
    windows = [(await market.subscribe(user)).provider_checkout_id or "" for _ in range(2)]
    for window in windows:
        stripe_world.complete(window)
    await hear_all(market, stripe_world)
    await hear_all(market, stripe_world)
    assert await market.events("failed") == []
    one, other = (stripe_world.objects[window]["subscription"] for window in windows)
    assert sorted((await held(market, user)).values()) == ["active", "canceled"]
    standing = await market.standing(user)
    assert (standing.granted, [row[1] for row in standing.payments]) == (2000, ["completed"] * 2)

    await ProviderCancellationWorker(market.database, market.provider).run_once()
    await hear_all(market, stripe_world)
    assert sorted(stripe_world.objects[each]["status"] for each in (one, other)) == ["active", "canceled"]
    for row in await market.payments(user):
        if row.subscription_id != (await current(market, user)).id:
            await market.provider.refund(row.provider_payment_id or "", amount=None, currency="USD", key="twice")
    await hear_all(market, stripe_world)
    assert await market.balance(user) == 1000


async def test_one_checkout_paid_for_twice_makes_one_subscription_that_goes_on(
    store: Market,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.a_user()
    checkout = (await store.subscribe(user)).provider_checkout_id or ""
    both = [world.complete(checkout) for _ in range(2)]
    await hear_all_of_lemon_squeezy(store, world)
    assert await store.events("failed") == []
    await ProviderCancellationWorker(store.database, store.provider).run_once()
    await hear_all_of_lemon_squeezy(store, world)
    assert sorted((await held(store, user)).values()) == ["active", "canceled"]
    assert sorted(each["attributes"]["cancelled"] for each in both) == [False, True]
    assert await store.balance(user) == 2000


async def test_one_taken_over_that_ends_with_its_period_is_not_lived_on_until_then(
    store: Market,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.a_user()
    checkouts = [(await store.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    earlier = world.complete(checkouts[0])
    await hear_all_of_lemon_squeezy(store, world)
    later = world.complete(checkouts[1])
    await hear_all_of_lemon_squeezy(store, world)
    leaver = ProviderCancellationWorker(store.database, store.provider)
    await leaver.run_once()
    assert [each["attributes"]["cancelled"] for each in (earlier, later)] == [True, False]
    await hear_all_of_lemon_squeezy(store, world)
    assert await held(store, user) == {earlier["id"]: "canceled", later["id"]: "active"}
    world.expire(earlier)
    await hear_all_of_lemon_squeezy(store, world)
    assert await held(store, user) == {earlier["id"]: "expired", later["id"]: "active"}
    assert (await store.standing(user)).granted == 100 + 1000


async def test_one_taken_over_that_the_provider_has_lost_is_asked_for_once(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market = stripe_market
    user = await market.a_user()
    checkouts = [(await market.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in checkouts:
        stripe_world.complete(checkout)
        await hear_all(market, stripe_world)
    del stripe_world.objects[stripe_world.objects[checkouts[0]]["subscription"]]
    leaver = ProviderCancellationWorker(market.database, market.provider)
    await leaver.run_once()
    asked = len(stripe_world.requests)
    await leaver.run_once()
    assert len(stripe_world.requests) == asked
    assert await status_of(market, user) == "active"


async def held(market: Market, user: User) -> dict[str | None, str]:
    """The status of each subscription, by the provider's id."""
    async with market.database.read() as connection:
        found = await subscriptions.list_subscriptions(connection, user_id=user.id)
    return {each.provider_subscription_id: each.status for each in found.data}


async def delete(market: Market, user: User) -> None:
    async with await market.signed_in(user) as client:
        assert (await client.delete("/me")).status_code == 204
