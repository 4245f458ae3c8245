"""What Stripe remembers blocks nobody: deleted customers, and refusals that it repeats for a day."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from uuid import uuid4

import pytest
import stripe
from structlog.testing import capture_logs

from gateway.payments.provider import REFUSED, ProviderRefused, ProviderUnavailable
from gateway.payments.stripe.calls import _to_customer
from tests.payments.fake_stripe import FakeStripe
from tests.payments.operator.conftest import admin_client
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


@pytest.mark.parametrize("is_told", [True, False])
async def test_customer_deleted_at_stripe_can_buy_again(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, is_told: bool
) -> None:
    user = await stripe_stack.create_user()
    first = await stripe_stack.subscribe(user)
    customer_id = fake_stripe.objects[first.provider_checkout_id or ""]["customer"]
    fake_stripe.delete_customer(customer_id)
    if is_told:
        await deliver_all(stripe_stack, fake_stripe)
    else:
        fake_stripe.new_events()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    assert (await current_subscription(stripe_stack, user)).status == "active"
    assert fake_stripe.sessions[-1]["customer"] != customer_id
    async with await stripe_stack.client_for(user) as client:
        assert (await client.post("/me/billing/portal")).status_code == 200


async def test_customer_of_the_other_mode_is_replaced(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    """The key of test mode has been replaced by that of live mode."""
    user = await stripe_stack.create_user()
    first = await stripe_stack.subscribe(user)
    customer_id = fake_stripe.objects[first.provider_checkout_id or ""]["customer"]
    del fake_stripe.objects[customer_id]
    fake_stripe._answers.clear()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    assert (await current_subscription(stripe_stack, user)).status == "active"


def without_retries(stack: PaymentStack) -> None:
    stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits


async def test_failure_that_is_stored_keeps_no_user_from_becoming_a_customer(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    create, user = stripe_stack.provider.create_customer, str(uuid4())
    without_retries(stripe_stack)
    fake_stripe.faults.plan = iter(["stored"])
    with pytest.raises(ProviderUnavailable):
        await create(user, email="ada@example.com", name="Ada")
    created = await create(user, email="ada@example.com", name="Ada")
    assert await create(user, email="ada@example.com", name="Ada") == created
    assert await create(user, email="ada@example.com", name="Ada L.") != created


async def test_refused_refund_can_be_made_once_the_reason_is_gone(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    payment_id = only(await stripe_stack.payments(user), "subscription").provider_payment_id or ""
    fake_stripe.refunds_refused = True
    for _ in range(2):
        with pytest.raises(ProviderRefused, match="Insufficient funds"):
            await stripe_stack.provider.refund(payment_id, amount=Decimal("5.00"), currency="USD", key="same")
    fake_stripe.refunds_refused = False
    for _ in range(3):
        await stripe_stack.provider.refund(payment_id, amount=Decimal("5.00"), currency="USD", key="same")
    assert fake_stripe.charge_of(payment_id)["amount_refunded"] == 500
    without_retries(stripe_stack)
    fake_stripe.faults.plan, intent = iter(["stored"]), fake_stripe.charge_of(payment_id)["payment_intent"]
    for _ in range(2):  # it was executed, which nobody can know
        with pytest.raises(ProviderUnavailable):
            await stripe_stack.provider.refund(intent, amount=Decimal("5.00"), currency="USD", key="failed")
    assert fake_stripe.charge_of(payment_id)["amount_refunded"] == 1000


async def test_repeated_order_begins_one_checkout(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user, key = await stripe_stack.create_user(), uuid4().hex
    async with await stripe_stack.client_for(user) as client:
        first, again = [await client.post("/subscriptions/pro", headers={"idempotency-key": key}) for _ in range(2)]
        both = await asyncio.gather(
            *(client.post("/subscriptions/basic", headers={"idempotency-key": f"{key}-2"}) for _ in range(2))
        )
    assert (first.status_code, again.json()) == (201, first.json()), first.text
    assert {each.status_code for each in both} <= {201, 409}
    sessions = [each for each in fake_stripe.objects.values() if each["object"] == "checkout.session"]
    assert len(sessions) == 2


async def test_what_the_provider_says_of_its_objects_is_for_the_operator(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    without_retries(stripe_stack)
    user = await stripe_stack.create_user()
    remote = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    found = await current_subscription(stripe_stack, user)
    del fake_stripe.objects[remote]
    async with await stripe_stack.client_for(user) as customer, admin_client(stripe_stack) as admin:
        for code, secret in (("payment_refused", remote), ("payment_unavailable", "Stripe")):
            with capture_logs() as logged:
                told = (await customer.delete(f"/subscriptions/{found.id}")).json()
                known = (await admin.post(f"/admin/v1/subscriptions/{found.id}/cancel")).json()
            assert (told["code"], known["code"]) == (code, code)
            assert secret not in told["detail"]
            assert secret in known["detail"]
            assert all(secret in each["reason"] for each in logged if each["event"] == code)
            fake_stripe.down = True


async def test_message_about_a_card_is_for_its_holder() -> None:
    told = {"request-id": "req_1"}
    declined = stripe.CardError("Your card has insufficient funds.", None, None, headers=told)  # type: ignore[no-untyped-call]
    assert "req_1" in str(declined)
    assert _to_customer(declined) == "Your card has insufficient funds."
    unknown = stripe.InvalidRequestError("No such price: 'price_x'", None, headers=told)  # type: ignore[no-untyped-call]
    assert _to_customer(unknown) == REFUSED
