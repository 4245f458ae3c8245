"""Subscriptions of deleted accounts and superseded subscriptions end at the provider too."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.api.account.billing import subscriptions as own_subscriptions
from gateway.api.account.billing.own_subscription import read_own
from gateway.api.account.dependencies import Me
from gateway.clock import now
from gateway.ledger.accounts import erasure
from gateway.ledger.accounts.users import User
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.workers.billing.provider_instructions import ProviderInstructionWorker
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_lemon_squeezy_lifecycle import deliver_all as deliver_all_of_lemon_squeezy
from tests.payments.test_lemon_squeezy_lifecycle import subscribe_and_pay as lemon_squeezy_subscription
from tests.payments.test_stripe_lifecycle import (
    current_subscription,
    deliver_all,
    subscribe_and_pay,
    subscription_status,
)


async def test_cancellation_of_a_deleted_account_waits_for_the_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    cancellation = ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider)
    stripe_stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    user, other = await stripe_stack.create_user(), await stripe_stack.create_user()
    remote, other_remote = (
        await subscribe_and_pay(stripe_stack, fake_stripe, user),
        await subscribe_and_pay(stripe_stack, fake_stripe, other),
    )
    fake_stripe.down = True
    await delete_account(stripe_stack, user)  # which waits for no provider
    await cancellation.run_once()
    assert fake_stripe.objects[remote]["status"] == "active"

    fake_stripe.down = False
    await cancellation.run_once()
    assert fake_stripe.objects[remote]["status"] == "canceled"
    assert fake_stripe.objects[other_remote]["status"] == "active"
    assert await subscription_status(stripe_stack, user) == "canceled"
    asked = len(fake_stripe.requests)
    await cancellation.run_once()
    assert len(fake_stripe.requests) == asked


async def test_cancellation_covers_a_payment_after_the_account_was_deleted(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)
    await delete_account(stripe_stack, user)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await subscription_status(stripe_stack, user) == "active"
    await ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider).run_once()
    assert await subscription_status(stripe_stack, user) == "canceled"
    assert [each["status"] for each in fake_stripe.objects.values() if each["object"] == "subscription"] == ["canceled"]


async def test_cancellation_of_a_subscription_that_the_provider_lacks_ends_it_here(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    del fake_stripe.objects[await subscribe_and_pay(stripe_stack, fake_stripe, user)]
    await delete_account(stripe_stack, user)
    await ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider).run_once()
    assert await subscription_status(stripe_stack, user) == "canceled"


async def test_cancellation_is_at_period_end_where_the_provider_knows_no_other(
    lemon_squeezy_stack: PaymentStack,
    fake_lemon_squeezy: FakeLemonSqueezy,
) -> None:
    user = await lemon_squeezy_stack.create_user()
    remote = await lemon_squeezy_subscription(lemon_squeezy_stack, fake_lemon_squeezy, user)
    await delete_account(lemon_squeezy_stack, user)
    await ProviderInstructionWorker(lemon_squeezy_stack.database, lemon_squeezy_stack.provider).run_once()
    assert remote["attributes"]["cancelled"] is True
    assert (await current_subscription(lemon_squeezy_stack, user)).cancel_at_period_end


async def test_cancellation_of_the_superseded_one_of_two_paid_subscriptions(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    first, second = [(await stripe_stack.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in (first, second):
        fake_stripe.pay_checkout(checkout)
        await deliver_all(stripe_stack, fake_stripe)
    earlier, later = (fake_stripe.objects[checkout]["subscription"] for checkout in (first, second))
    fake_stripe.renew(earlier)
    await deliver_all(stripe_stack, fake_stripe)  # late for us, and paid for
    assert await statuses(stripe_stack, user) == {earlier: "canceled", later: "active"}
    state = await stripe_stack.billing_state(user)
    assert (state.granted, len(state.payments)) == (100 + 1000 + 100, 3)

    cancellation = ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider)
    await cancellation.run_once()
    assert [fake_stripe.objects[each]["status"] for each in (earlier, later)] == ["canceled", "active"]
    await deliver_all(stripe_stack, fake_stripe)
    asked = len(fake_stripe.requests)
    await cancellation.run_once()
    assert len(fake_stripe.requests) == asked
    assert await statuses(stripe_stack, user) == {earlier: "canceled", later: "active"}
    assert await stripe_stack.billing_state(user) == state


async def test_cancellation_of_a_plan_bought_twice_allows_the_refund_of_one_payment(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    windows = [(await stripe_stack.subscribe(user)).provider_checkout_id or "" for _ in range(2)]
    for window in windows:
        fake_stripe.pay_checkout(window)
    await deliver_all(stripe_stack, fake_stripe)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.event_reasons("failed") == []
    one, other = (fake_stripe.objects[window]["subscription"] for window in windows)
    assert sorted((await statuses(stripe_stack, user)).values()) == ["active", "canceled"]
    state = await stripe_stack.billing_state(user)
    assert (state.granted, [row[1] for row in state.payments]) == (2000, ["completed"] * 2)

    await ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider).run_once()
    await deliver_all(stripe_stack, fake_stripe)
    assert sorted(fake_stripe.objects[each]["status"] for each in (one, other)) == ["active", "canceled"]
    for row in await stripe_stack.payments(user):
        if row.subscription_id != (await current_subscription(stripe_stack, user)).id:
            await stripe_stack.provider.refund(row.provider_payment_id or "", amount=None, currency="USD", key="twice")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000


async def test_cancellation_leaves_one_subscription_of_a_checkout_paid_twice(
    lemon_squeezy_stack: PaymentStack,
    fake_lemon_squeezy: FakeLemonSqueezy,
) -> None:
    user = await lemon_squeezy_stack.create_user()
    checkout = (await lemon_squeezy_stack.subscribe(user)).provider_checkout_id or ""
    both = [fake_lemon_squeezy.pay_checkout(checkout) for _ in range(2)]
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.event_reasons("failed") == []
    await ProviderInstructionWorker(lemon_squeezy_stack.database, lemon_squeezy_stack.provider).run_once()
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    assert sorted((await statuses(lemon_squeezy_stack, user)).values()) == ["active", "canceled"]
    assert sorted(each["attributes"]["cancelled"] for each in both) == [False, True]
    assert await lemon_squeezy_stack.balance(user) == 2000


async def test_superseded_subscription_gives_no_access_until_its_period_ends(
    lemon_squeezy_stack: PaymentStack,
    fake_lemon_squeezy: FakeLemonSqueezy,
) -> None:
    user = await lemon_squeezy_stack.create_user()
    checkouts = [
        (await lemon_squeezy_stack.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")
    ]
    earlier = fake_lemon_squeezy.pay_checkout(checkouts[0])
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    later = fake_lemon_squeezy.pay_checkout(checkouts[1])
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    cancellation = ProviderInstructionWorker(lemon_squeezy_stack.database, lemon_squeezy_stack.provider)
    await cancellation.run_once()
    assert [each["attributes"]["cancelled"] for each in (earlier, later)] == [True, False]
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await statuses(lemon_squeezy_stack, user) == {earlier["id"]: "canceled", later["id"]: "active"}
    fake_lemon_squeezy.expire(earlier)
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await statuses(lemon_squeezy_stack, user) == {earlier["id"]: "expired", later["id"]: "active"}
    assert (await lemon_squeezy_stack.billing_state(user)).granted == 100 + 1000


async def test_cancellation_asks_once_for_a_superseded_subscription_that_the_provider_lacks(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkouts = [(await stripe_stack.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in checkouts:
        fake_stripe.pay_checkout(checkout)
        await deliver_all(stripe_stack, fake_stripe)
    del fake_stripe.objects[fake_stripe.objects[checkouts[0]]["subscription"]]
    cancellation = ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider)
    await cancellation.run_once()
    asked = len(fake_stripe.requests)
    await cancellation.run_once()
    assert len(fake_stripe.requests) == asked
    assert await subscription_status(stripe_stack, user) == "active"


async def statuses(stack: PaymentStack, user: User) -> dict[str | None, str]:
    """The status of each subscription, by the provider's id."""
    async with stack.database.read() as connection:
        found = await subscriptions.list_subscriptions(connection, user_id=user.id)
    return {each.provider_subscription_id: each.status for each in found.data}


async def delete_account(stack: PaymentStack, user: User) -> None:
    async with stack.database.transaction() as connection:
        await erasure.erase(connection, user.id, now=now())


async def test_subscription_that_is_paid_for_while_its_buyer_ends_it_stays(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)

    async def pay_after_reading(me: Me, subscription_id: UUID | None) -> StoredSubscription:
        found = await read_own(me, subscription_id)
        fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
        await deliver_all(stripe_stack, fake_stripe)
        return found

    monkeypatch.setattr(own_subscriptions, "read_own", pay_after_reading)
    async with await stripe_stack.client_for(user) as client:
        answer = await client.delete(f"/subscriptions/{checkout.subscription_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), answer.text
    found = await stripe_stack.subscription(user)
    assert found is not None
    assert (found.status, await stripe_stack.balance(user)) == ("active", 1000)
