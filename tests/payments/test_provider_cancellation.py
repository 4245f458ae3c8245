"""Nobody is charged for what is over: with the account, or as another took over, it ends at the provider too."""

from __future__ import annotations

from gateway.ledger.accounts.users import User
from gateway.ledger.subscriptions import subscriptions
from gateway.workers.billing.provider_cancellation import ProviderCancellationWorker
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_lemon_squeezy_lifecycle import begun as lemon_squeezy_subscription
from tests.payments.test_lemon_squeezy_lifecycle import deliver_all as deliver_all_of_lemon_squeezy
from tests.payments.test_lemon_squeezy_lifecycle import store, world  # noqa: F401 - fixtures
from tests.payments.test_stripe_lifecycle import begun, current, deliver_all, status_of


async def test_the_subscription_of_a_deleted_account_ends_at_the_provider_once_it_can_be_reached(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack, cancellation = stripe_stack, ProviderCancellationWorker(stripe_stack.database, stripe_stack.provider)
    stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    user, other = await stack.create_user(), await stack.create_user()
    remote, kept = await begun(stack, fake_stripe, user), await begun(stack, fake_stripe, other)
    fake_stripe.down = True
    await delete(stack, user)  # which waits for no provider
    await cancellation.run_once()
    assert fake_stripe.objects[remote]["status"] == "active"

    fake_stripe.down = False
    await cancellation.run_once()
    assert fake_stripe.objects[remote]["status"] == "canceled"
    assert fake_stripe.objects[kept]["status"] == "active"
    assert await status_of(stack, user) == "canceled"
    asked = len(fake_stripe.requests)
    await cancellation.run_once()
    assert len(fake_stripe.requests) == asked


async def test_what_is_paid_for_after_the_account_was_deleted_ends_too(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack = stripe_stack
    user = await stack.create_user()
    checkout = await stack.subscribe(user)
    await delete(stack, user)
    fake_stripe.complete(checkout.provider_checkout_id or "")
    await deliver_all(stack, fake_stripe)
    assert await status_of(stack, user) == "active"
    await ProviderCancellationWorker(stack.database, stack.provider).run_once()
    assert await status_of(stack, user) == "canceled"
    assert [each["status"] for each in fake_stripe.objects.values() if each["object"] == "subscription"] == ["canceled"]


async def test_a_subscription_that_the_provider_has_lost_is_over(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    del fake_stripe.objects[await begun(stripe_stack, fake_stripe, user)]
    await delete(stripe_stack, user)
    await ProviderCancellationWorker(stripe_stack.database, stripe_stack.provider).run_once()
    assert await status_of(stripe_stack, user) == "canceled"


async def test_where_it_cannot_end_at_once_it_ends_with_its_period(
    store: PaymentStack,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.create_user()
    remote = await lemon_squeezy_subscription(store, world, user)
    await delete(store, user)
    await ProviderCancellationWorker(store.database, store.provider).run_once()
    assert remote["attributes"]["cancelled"] is True
    assert (await current(store, user)).cancel_at_period_end


async def test_of_two_that_are_paid_for_the_one_taken_over_ends_at_the_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack = stripe_stack
    user = await stack.create_user()
    first, second = [(await stack.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in (first, second):
        fake_stripe.complete(checkout)
        await deliver_all(stack, fake_stripe)
    earlier, later = (fake_stripe.objects[checkout]["subscription"] for checkout in (first, second))
    fake_stripe.renew(earlier)
    await deliver_all(stack, fake_stripe)  # late for us, and paid for
    assert await held(stack, user) == {earlier: "canceled", later: "active"}
    state = await stack.billing_state(user)
    assert (state.granted, len(state.payments)) == (100 + 1000 + 100, 3)

    cancellation = ProviderCancellationWorker(stack.database, stack.provider)
    await cancellation.run_once()
    assert [fake_stripe.objects[each]["status"] for each in (earlier, later)] == ["canceled", "active"]
    await deliver_all(stack, fake_stripe)
    asked = len(fake_stripe.requests)
    await cancellation.run_once()
    assert len(fake_stripe.requests) == asked
    assert await held(stack, user) == {earlier: "canceled", later: "active"}
    assert await stack.billing_state(user) == state


async def test_of_one_plan_paid_for_in_two_windows_one_subscription_ends_and_its_money_can_be_given_back(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack = stripe_stack
    user = await stack.create_user()
    windows = [(await stack.subscribe(user)).provider_checkout_id or "" for _ in range(2)]
    for window in windows:
        fake_stripe.complete(window)
    await deliver_all(stack, fake_stripe)
    await deliver_all(stack, fake_stripe)
    assert await stack.events("failed") == []
    one, other = (fake_stripe.objects[window]["subscription"] for window in windows)
    assert sorted((await held(stack, user)).values()) == ["active", "canceled"]
    state = await stack.billing_state(user)
    assert (state.granted, [row[1] for row in state.payments]) == (2000, ["completed"] * 2)

    await ProviderCancellationWorker(stack.database, stack.provider).run_once()
    await deliver_all(stack, fake_stripe)
    assert sorted(fake_stripe.objects[each]["status"] for each in (one, other)) == ["active", "canceled"]
    for row in await stack.payments(user):
        if row.subscription_id != (await current(stack, user)).id:
            await stack.provider.refund(row.provider_payment_id or "", amount=None, currency="USD", key="twice")
    await deliver_all(stack, fake_stripe)
    assert await stack.balance(user) == 1000


async def test_one_checkout_paid_for_twice_makes_one_subscription_that_goes_on(
    store: PaymentStack,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.create_user()
    checkout = (await store.subscribe(user)).provider_checkout_id or ""
    both = [world.complete(checkout) for _ in range(2)]
    await deliver_all_of_lemon_squeezy(store, world)
    assert await store.events("failed") == []
    await ProviderCancellationWorker(store.database, store.provider).run_once()
    await deliver_all_of_lemon_squeezy(store, world)
    assert sorted((await held(store, user)).values()) == ["active", "canceled"]
    assert sorted(each["attributes"]["cancelled"] for each in both) == [False, True]
    assert await store.balance(user) == 2000


async def test_one_taken_over_that_ends_with_its_period_is_not_lived_on_until_then(
    store: PaymentStack,  # noqa: F811 - a fixture
    world: FakeLemonSqueezy,  # noqa: F811 - a fixture
) -> None:
    user = await store.create_user()
    checkouts = [(await store.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    earlier = world.complete(checkouts[0])
    await deliver_all_of_lemon_squeezy(store, world)
    later = world.complete(checkouts[1])
    await deliver_all_of_lemon_squeezy(store, world)
    cancellation = ProviderCancellationWorker(store.database, store.provider)
    await cancellation.run_once()
    assert [each["attributes"]["cancelled"] for each in (earlier, later)] == [True, False]
    await deliver_all_of_lemon_squeezy(store, world)
    assert await held(store, user) == {earlier["id"]: "canceled", later["id"]: "active"}
    world.expire(earlier)
    await deliver_all_of_lemon_squeezy(store, world)
    assert await held(store, user) == {earlier["id"]: "expired", later["id"]: "active"}
    assert (await store.billing_state(user)).granted == 100 + 1000


async def test_one_taken_over_that_the_provider_has_lost_is_asked_for_once(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack = stripe_stack
    user = await stack.create_user()
    checkouts = [(await stack.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in checkouts:
        fake_stripe.complete(checkout)
        await deliver_all(stack, fake_stripe)
    del fake_stripe.objects[fake_stripe.objects[checkouts[0]]["subscription"]]
    cancellation = ProviderCancellationWorker(stack.database, stack.provider)
    await cancellation.run_once()
    asked = len(fake_stripe.requests)
    await cancellation.run_once()
    assert len(fake_stripe.requests) == asked
    assert await status_of(stack, user) == "active"


async def held(stack: PaymentStack, user: User) -> dict[str | None, str]:
    """The status of each subscription, by the provider's id."""
    async with stack.database.read() as connection:
        found = await subscriptions.list_subscriptions(connection, user_id=user.id)
    return {each.provider_subscription_id: each.status for each in found.data}


async def delete(stack: PaymentStack, user: User) -> None:
    async with await stack.client_for(user) as client:
        assert (await client.delete("/me")).status_code == 204
