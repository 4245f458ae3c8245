"""Whoever is suspended is charged nothing, and an operator ends what a provider bills."""

from __future__ import annotations

import httpx
import pytest

from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.workers.billing.payment_pauses import PaymentPauseWorker
from tests.api.conftest import admin_app, client_of
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


def operator(stack: PaymentStack) -> httpx.AsyncClient:
    async def publish() -> None:
        return None

    return client_of(admin_app(stack.database, publish, missing={}, checkout_service=stack.checkout_service))


async def test_suspended_customer_of_stripe_is_charged_nothing_until_the_account_is_reactivated(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    worker = PaymentPauseWorker(stripe_stack.database, stripe_stack.provider)
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
    worker = PaymentPauseWorker(stripe_stack.database, stripe_stack.provider)
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
    await PaymentPauseWorker(stripe_stack.database, stripe_stack.provider).run_once()
    assert fake_stripe.objects[subscription_id]["pause_collection"] == {"behavior": "keep_as_draft"}


async def test_suspended_customer_of_lemon_squeezy_is_charged_nothing_either(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    worker = PaymentPauseWorker(lemon_squeezy_stack.database, lemon_squeezy_stack.provider)
    user = await lemon_squeezy_stack.create_user()
    remote = await lemon_squeezy_subscription(lemon_squeezy_stack, fake_lemon_squeezy, user)
    for change, pause, status in ((suspend, {"mode": "void"}, "paused"), (reactivate, None, "active")):
        await change(lemon_squeezy_stack, user)
        await worker.run_once()
        assert remote["attributes"]["pause"] == pause
        await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
        assert (await current_subscription(lemon_squeezy_stack, user)).status == status


@pytest.mark.parametrize("at_period_end", [True, False])
async def test_operator_cancels_a_subscription_at_its_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, at_period_end: bool
) -> None:
    user = await stripe_stack.create_user()
    remote = fake_stripe.objects[await subscribe_and_pay(stripe_stack, fake_stripe, user)]
    found = await current_subscription(stripe_stack, user)
    path = f"/admin/v1/subscriptions/{found.id}"
    async with operator(stripe_stack) as client:
        body = {"at_period_end": at_period_end, "reason": "fraud"}
        answer = await client.post(f"{path}/cancel", json=body)
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        expected = ("active", True) if at_period_end else ("canceled", False)
        assert (remote["status"], remote["cancel_at_period_end"]) == expected
        assert (shown["status"], shown["cancel_at_period_end"]) == expected
        audit = (await client.get("/admin/v1/audit-log", params={"entity_id": str(found.id)})).json()["data"][0]
        assert (audit["action"], audit["reason"]) == ("subscriptions.cancel", "fraud")
        answer = await client.post(f"{path}/undo-cancel")
        assert answer.status_code == (200 if at_period_end else 409), answer.text
        if at_period_end:
            assert (remote["cancel_at_period_end"], answer.json()["cancel_at_period_end"]) == (False, False)
        paused = await client.post(f"{path}/pause")
        assert paused.status_code == 409, paused.text


async def test_operator_cancels_a_checkout_that_nobody_paid(stripe_stack: PaymentStack) -> None:
    user = await stripe_stack.create_user()
    await stripe_stack.subscribe(user)
    found = await current_subscription(stripe_stack, user)
    async with operator(stripe_stack) as client:
        answer = await client.post(f"/admin/v1/subscriptions/{found.id}/cancel", json={"at_period_end": False})
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled"), answer.text
