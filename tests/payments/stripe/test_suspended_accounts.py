"""Whoever is suspended is charged nothing."""

from __future__ import annotations

from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.workers.billing.provider_instructions import ProviderInstructionWorker
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_lemon_squeezy_lifecycle import deliver_all as deliver_all_of_lemon_squeezy
from tests.payments.test_lemon_squeezy_lifecycle import subscribe_and_pay as lemon_squeezy_subscription
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


async def suspend(stack: PaymentStack, user: User) -> None:
    async with stack.database.transaction() as connection:
        await users.suspend(connection, user.id)


async def reactivate(stack: PaymentStack, user: User) -> None:
    async with stack.database.transaction() as connection:
        await users.reactivate(connection, user.id)


async def test_suspended_customer_of_stripe_is_charged_nothing_until_the_account_is_reactivated(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    worker = ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider)
    user, other = await stripe_stack.create_user(), await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    others = await subscribe_and_pay(stripe_stack, fake_stripe, other)
    await suspend(stripe_stack, user)
    fake_stripe.down = True
    stripe_stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    await worker.run_once()
    fake_stripe.down = False
    await worker.run_once()
    assert fake_stripe.objects[subscription_id]["pause_collection"] == {"behavior": "void"}
    assert fake_stripe.objects[others]["pause_collection"] is None
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.granted, len([row for row in state.payments if row[1] == "completed"])) == (1000, 1)
    await reactivate(stripe_stack, user)
    await worker.run_once()
    assert fake_stripe.objects[subscription_id]["pause_collection"] is None
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted) == ("active", 2000)
    asked = len(fake_stripe.requests)
    await worker.run_once()
    assert len(fake_stripe.requests) == asked


async def test_subscription_that_the_provider_lacks_is_asked_about_once(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    worker = ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider)
    user = await stripe_stack.create_user()
    del fake_stripe.objects[await subscribe_and_pay(stripe_stack, fake_stripe, user)]
    await suspend(stripe_stack, user)
    await worker.run_once()
    asked = len(fake_stripe.requests)
    await worker.run_once()
    assert len(fake_stripe.requests) == asked


async def test_pause_that_the_seller_made_is_left_alone(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    fake_stripe.objects[subscription_id]["pause_collection"] = {"behavior": "keep_as_draft"}
    await ProviderInstructionWorker(stripe_stack.database, stripe_stack.provider).run_once()
    assert fake_stripe.objects[subscription_id]["pause_collection"] == {"behavior": "keep_as_draft"}


async def test_suspended_customer_of_lemon_squeezy_is_charged_nothing_either(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    worker = ProviderInstructionWorker(lemon_squeezy_stack.database, lemon_squeezy_stack.provider)
    user = await lemon_squeezy_stack.create_user()
    remote = await lemon_squeezy_subscription(lemon_squeezy_stack, fake_lemon_squeezy, user)
    for change, pause, status in ((suspend, {"mode": "void"}, "paused"), (reactivate, None, "active")):
        await change(lemon_squeezy_stack, user)
        await worker.run_once()
        assert remote["attributes"]["pause"] == pause
        await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
        assert (await current_subscription(lemon_squeezy_stack, user)).status == status
