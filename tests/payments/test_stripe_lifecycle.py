"""A subscription's life at Stripe: requests to its API and webhooks signed by its SDK, both over HTTP."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.credits import grants
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import PriceChange
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import PaymentStack, only


async def test_paid_checkout_becomes_an_active_subscription_with_its_credits(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)
    assert checkout.url is not None
    assert checkout.url.startswith("https://checkout.test/")
    waiting = await stripe_stack.subscription(user)
    assert waiting is not None
    assert waiting.status == "incomplete"
    assert await stripe_stack.balance(user) == 0

    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)

    found = await stripe_stack.subscription(user)
    assert found is not None
    assert (found.status, found.plan_id, found.provider) == ("active", "pro", "stripe")
    assert found.current_period_end > now()
    assert await stripe_stack.balance(user) == 1000
    paid = only(await stripe_stack.payments(user), "subscription")
    assert (str(paid.amount), paid.status, paid.credits_awarded, paid.payment_method) == (
        "29.99",
        "completed",
        1000,
        "card:visa",
    )


async def deliver_all(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    """Delivers the new events in order and processes them."""
    for event in fake_stripe.new_events():
        await stack.deliver(*signed(event, STRIPE_SECRETS[0]))
    await stack.process_all()
    assert not await stack.event_reasons("failed")


async def test_stripe_lifecycle_is_followed_step_by_step(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)

    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await subscription_status(stripe_stack, user) == "active"
    assert (await stripe_stack.billing_state(user)).granted == 2000

    paid_until = (await current_subscription(stripe_stack, user)).current_period_end
    unpaid = fake_stripe.renew(subscription_id, succeeds=False)
    await deliver_all(stripe_stack, fake_stripe)
    late = await current_subscription(stripe_stack, user)
    assert late.status == "past_due"
    assert late.current_period_end == paid_until  # the grace begins where the paid period ended
    assert (await stripe_stack.billing_state(user)).granted == 2000
    failed = [row for row in await stripe_stack.payments(user) if row.status == "failed"]
    assert len(failed) == 1

    fake_stripe.recover(unpaid["id"])
    await deliver_all(stripe_stack, fake_stripe)
    assert await subscription_status(stripe_stack, user) == "active"
    assert (await stripe_stack.billing_state(user)).granted == 3000
    assert [row.status for row in await stripe_stack.payments(user)] == ["completed"] * 3

    await stripe_stack.provider.cancel(subscription_id, at_period_end=True)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).cancel_at_period_end
    await stripe_stack.provider.resume(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert not (await current_subscription(stripe_stack, user)).cancel_at_period_end

    fake_stripe.end(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await subscription_status(stripe_stack, user) == "canceled"


async def test_upgrade_is_paid_for_and_its_credits_are_prorated(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    await stripe_stack.provider.change_plan(subscription_id, PriceChange("price_pro", 1, "once"))
    await stripe_stack.provider.change_plan(subscription_id, PriceChange("price_pro", 1, "once"))
    await deliver_all(stripe_stack, fake_stripe)
    upgraded = await current_subscription(stripe_stack, user)
    assert upgraded.plan_id == "pro"
    assert 990 <= await stripe_stack.balance(user) <= 1000  # the period has just begun
    assert sorted(str(row.amount) for row in await stripe_stack.payments(user)) == ["20.00", "9.99"]


async def test_refund_claws_back_credits_and_leaves_a_debt_for_those_used(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await spend(stripe_stack, user, 400)
    payment = only(await stripe_stack.payments(user), "subscription")

    await stripe_stack.provider.refund(
        payment.provider_payment_id or "", amount=Decimal("10.00"), currency="USD", key="a"
    )
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 600 - 333  # a third of what it gave, rounded down
    partly = only(await stripe_stack.payments(user), "subscription")
    assert (partly.status, str(partly.refunded_amount), partly.credits_withdrawn) == (
        "partially_refunded",
        "10.00",
        333,
    )

    await stripe_stack.provider.refund(payment.provider_payment_id or "", amount=None, currency="USD", key="b")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == -400
    wholly = only(await stripe_stack.payments(user), "subscription")
    assert (wholly.status, str(wholly.refunded_amount), wholly.credits_withdrawn) == ("refunded", "29.99", 1000)
    backs = [row for row in await stripe_stack.payments(user) if row.transaction_type == "refund"]
    assert sorted(str(row.amount) for row in backs) == ["10.00", "19.99"]
    assert {row.refers_to_id for row in backs} == {payment.id}


async def test_failed_refund_gives_the_credits_back(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    payment_id = only(await stripe_stack.payments(user), "subscription").provider_payment_id or ""
    lasting, failing = fake_stripe.refund(payment_id, 1000), fake_stripe.refund(payment_id, 500)
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000 - 500
    fake_stripe.fail_refund(failing)
    await deliver_all(stripe_stack, fake_stripe)
    rows = {row.provider_payment_id: row for row in await stripe_stack.payments(user)}
    assert (rows[lasting["id"]].status, rows[failing["id"]].status) == ("completed", "failed")
    assert (rows[payment_id].status, rows[payment_id].refunded_amount) == ("partially_refunded", Decimal("10.00"))
    assert await stripe_stack.balance(user) == 1000 - 333

    fake_stripe.fail_refund(lasting)  # now Stripe says that nothing was given back
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000
    assert only(await stripe_stack.payments(user), "subscription").status == "completed"
    assert {row.status for row in await stripe_stack.payments(user) if row.transaction_type == "refund"} == {"failed"}


async def test_dispute_withdraws_the_credits_until_it_is_won(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    payment = only(await stripe_stack.payments(user), "subscription")
    dispute_id = fake_stripe.dispute(payment.provider_payment_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 0
    assert only(await stripe_stack.payments(user), "subscription").status == "disputed"

    fake_stripe.decide(dispute_id, "won")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 1000
    assert only(await stripe_stack.payments(user), "subscription").status == "completed"
    assert only(await stripe_stack.payments(user), "dispute").status == "completed"


async def test_pack_is_granted_once_however_it_is_confirmed(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    client = await stripe_stack.client_for(user)
    bought = await client.post("/me/credits/checkout", json={"pack": "pack-100"})
    assert bought.status_code == 201, bought.text
    confirm = f"/me/checkout/{bought.json()['id']}/confirm"
    assert (await client.post(confirm)).json()["status"] == "open"

    fake_stripe.pay_checkout(bought.json()["url"].rpartition("/")[2])
    answers = await asyncio.gather(*(client.post(confirm) for _ in range(4)), deliver_all(stripe_stack, fake_stripe))
    assert {answer.status_code for answer in answers[:4] if answer} == {200}
    assert (await client.post(confirm)).json()["status"] == "completed"
    assert await stripe_stack.balance(user) == 100
    listed = (await client.get("/me/payments")).json()["data"]
    assert [(row["transaction_type"], row["amount"], row["credits_awarded"]) for row in listed] == [
        ("credits", "5.00", 100)
    ]
    stranger = await stripe_stack.client_for(await stripe_stack.create_user())
    assert (await stranger.post(confirm)).status_code == 404
    assert (await stranger.get("/me/payments")).json()["data"] == []


async def test_payment_below_the_price_buys_nothing(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.buy_pack(user)
    fake_stripe.objects[checkout.provider_checkout_id or ""].update(_amount=499, amount_subtotal=499)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 0
    row = only(await stripe_stack.payments(user), "credits")
    assert "asked for 5.00" in (row.error_message or "")


async def test_invoices_of_the_provider_are_mirrored_and_shown(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    client = await stripe_stack.client_for(user)
    (invoice,) = (await client.get("/me/invoices")).json()["data"]
    assert (invoice["status"], invoice["total"], invoice["number"]) == ("paid", "29.99", None)
    assert invoice["provider_number"].startswith("F-")
    page = await client.get(f"/me/invoices/{invoice['id']}/html")
    assert "29.99" in page.text
    file = await client.get(f"/me/invoices/{invoice['id']}/pdf")
    assert file.content.startswith(b"%PDF-")


async def subscribe_and_pay(stack: PaymentStack, fake_stripe: FakeStripe, user: User, plan: str = "pro") -> str:
    """The provider's id of a subscription that is paid for."""
    checkout = await stack.subscribe(user, plan)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stack, fake_stripe)
    return str(fake_stripe.objects[checkout.provider_checkout_id or ""]["subscription"])


async def current_subscription(stack: PaymentStack, user: User) -> StoredSubscription:
    found = await stack.subscription(user)
    assert found is not None
    return found


async def subscription_status(stack: PaymentStack, user: User) -> str:
    return (await current_subscription(stack, user)).status


async def spend(stack: PaymentStack, user: User, amount: int) -> None:
    async with stack.database.transaction() as connection:
        await grants.adjust(connection, user.id, amount=-amount, reason="calls", actor="test")
