"""A subscription's life at Stripe, over HTTP both ways: what we ask its API, what it posts to us, signed by its SDK."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.credits import grants
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import PaymentStack, only


async def test_a_checkout_paid_for_becomes_an_active_subscription_with_its_credits(
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

    fake_stripe.complete(checkout.provider_checkout_id or "")
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


async def deliver_all(stack: PaymentStack, world: FakeStripe) -> None:
    """What Stripe has to say since the last time is delivered, in order, and acted on."""
    for event in world.new_events():
        await stack.deliver(*signed(event, STRIPE_SECRETS[0]))
    await stack.process_all()
    assert not await stack.events("failed")


async def test_a_whole_life_is_followed_step_by_step(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    subscription_id = await begun(stack, world, user)

    world.renew(subscription_id)
    await deliver_all(stack, world)
    assert await status_of(stack, user) == "active"
    assert (await stack.billing_state(user)).granted == 2000

    paid_until = (await current(stack, user)).current_period_end
    unpaid = world.renew(subscription_id, succeeds=False)
    await deliver_all(stack, world)
    late = await current(stack, user)
    assert late.status == "past_due"
    assert late.current_period_end == paid_until  # the grace begins where the paid period ended
    assert (await stack.billing_state(user)).granted == 2000
    failed = [row for row in await stack.payments(user) if row.status == "failed"]
    assert len(failed) == 1

    world.recover(unpaid["id"])
    await deliver_all(stack, world)
    assert await status_of(stack, user) == "active"
    assert (await stack.billing_state(user)).granted == 3000
    assert [row.status for row in await stack.payments(user)] == ["completed"] * 3

    await stack.provider.cancel(subscription_id, at_period_end=True)
    await deliver_all(stack, world)
    assert (await current(stack, user)).cancel_at_period_end
    await stack.provider.resume(subscription_id)
    await deliver_all(stack, world)
    assert not (await current(stack, user)).cancel_at_period_end

    world.end(subscription_id)
    await deliver_all(stack, world)
    assert await status_of(stack, user) == "canceled"


async def test_an_upgrade_is_paid_for_and_its_credits_are_prorated(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    subscription_id = await begun(stack, world, user, plan="basic")
    await stack.provider.change_plan(subscription_id, price_id="price_pro", quantity=1, key="once")
    await stack.provider.change_plan(subscription_id, price_id="price_pro", quantity=1, key="once")
    await deliver_all(stack, world)
    upgraded = await current(stack, user)
    assert upgraded.plan_id == "pro"
    assert 990 <= await stack.balance(user) <= 1000  # the period has just begun
    assert sorted(str(row.amount) for row in await stack.payments(user)) == ["20.00", "9.99"]


async def test_a_refund_takes_back_what_is_left_and_leaves_a_debt_for_the_rest(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    await begun(stack, world, user)
    await spend(stack, user, 400)
    payment = only(await stack.payments(user), "subscription")

    await stack.provider.refund(payment.provider_payment_id or "", amount=Decimal("10.00"), currency="USD", key="a")
    await deliver_all(stack, world)
    assert await stack.balance(user) == 600 - 333  # a third of what it gave, rounded down
    partly = only(await stack.payments(user), "subscription")
    assert (partly.status, str(partly.refunded_amount), partly.credits_withdrawn) == (
        "partially_refunded",
        "10.00",
        333,
    )

    await stack.provider.refund(payment.provider_payment_id or "", amount=None, currency="USD", key="b")
    await deliver_all(stack, world)
    assert await stack.balance(user) == -400
    wholly = only(await stack.payments(user), "subscription")
    assert (wholly.status, str(wholly.refunded_amount), wholly.credits_withdrawn) == ("refunded", "29.99", 1000)
    backs = [row for row in await stack.payments(user) if row.transaction_type == "refund"]
    assert sorted(str(row.amount) for row in backs) == ["10.00", "19.99"]
    assert {row.refers_to_id for row in backs} == {payment.id}


async def test_a_refund_that_failed_is_no_refund(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    await begun(stack, world, user)
    payment_id = only(await stack.payments(user), "subscription").provider_payment_id or ""
    lasting, failing = world.refund(payment_id, 1000), world.refund(payment_id, 500)
    await deliver_all(stack, world)
    assert await stack.balance(user) == 1000 - 500
    world.fail_refund(failing)
    await deliver_all(stack, world)
    rows = {row.provider_payment_id: row for row in await stack.payments(user)}
    assert (rows[lasting["id"]].status, rows[failing["id"]].status) == ("completed", "failed")
    assert (rows[payment_id].status, rows[payment_id].refunded_amount) == ("partially_refunded", Decimal("10.00"))
    assert await stack.balance(user) == 1000 - 333

    world.fail_refund(lasting)  # now Stripe says that nothing was given back
    await deliver_all(stack, world)
    assert await stack.balance(user) == 1000
    assert only(await stack.payments(user), "subscription").status == "completed"
    assert {row.status for row in await stack.payments(user) if row.transaction_type == "refund"} == {"failed"}


async def test_a_dispute_takes_the_credits_until_it_is_won(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    await begun(stack, world, user)
    payment = only(await stack.payments(user), "subscription")
    dispute_id = world.dispute(payment.provider_payment_id or "")
    await deliver_all(stack, world)
    assert await stack.balance(user) == 0
    assert only(await stack.payments(user), "subscription").status == "disputed"

    world.decide(dispute_id, "won")
    await deliver_all(stack, world)
    assert await stack.balance(user) == 1000
    assert only(await stack.payments(user), "subscription").status == "completed"
    assert only(await stack.payments(user), "dispute").status == "failed"


async def test_a_pack_gives_its_credits_once_however_it_is_confirmed(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    client = await stack.client_for(user)
    bought = await client.post("/me/credits/checkout", json={"pack": "pack-100"})
    assert bought.status_code == 201, bought.text
    confirm = f"/me/checkout/{bought.json()['id']}/confirm"
    assert (await client.post(confirm)).json()["status"] == "open"

    world.complete(bought.json()["url"].rpartition("/")[2])
    answers = await asyncio.gather(*(client.post(confirm) for _ in range(4)), deliver_all(stack, world))
    assert {answer.status_code for answer in answers[:4] if answer} == {200}
    assert (await client.post(confirm)).json()["status"] == "completed"
    assert await stack.balance(user) == 100
    listed = (await client.get("/me/payments")).json()["data"]
    assert [(row["transaction_type"], row["amount"], row["credits_awarded"]) for row in listed] == [
        ("credits", "5.00", 100)
    ]
    stranger = await stack.client_for(await stack.create_user())
    assert (await stranger.post(confirm)).status_code == 404
    assert (await stranger.get("/me/payments")).json()["data"] == []


async def test_too_little_money_buys_nothing(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    checkout = await stack.buy_pack(user)
    world.objects[checkout.provider_checkout_id or ""]["_amount"] = 499
    world.complete(checkout.provider_checkout_id or "")
    await deliver_all(stack, world)
    assert await stack.balance(user) == 0
    row = only(await stack.payments(user), "credits")
    assert "asked for 5.00" in (row.error_message or "")


async def test_the_providers_invoices_are_mirrored_and_shown(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    stack, world = stripe_stack, fake_stripe
    user = await stack.create_user()
    await begun(stack, world, user)
    client = await stack.client_for(user)
    (invoice,) = (await client.get("/me/invoices")).json()["data"]
    assert (invoice["status"], invoice["total"], invoice["number"]) == ("paid", "29.99", None)
    assert invoice["provider_number"].startswith("F-")
    page = await client.get(f"/me/invoices/{invoice['id']}/html")
    assert "29.99" in page.text
    file = await client.get(f"/me/invoices/{invoice['id']}/pdf")
    assert file.content.startswith(b"%PDF-")


async def begun(stack: PaymentStack, world: FakeStripe, user: User, plan: str = "pro") -> str:
    """The provider's id of a subscription that is paid for."""
    checkout = await stack.subscribe(user, plan)
    world.complete(checkout.provider_checkout_id or "")
    await deliver_all(stack, world)
    return str(world.objects[checkout.provider_checkout_id or ""]["subscription"])


async def current(stack: PaymentStack, user: User) -> StoredSubscription:
    found = await stack.subscription(user)
    assert found is not None
    return found


async def status_of(stack: PaymentStack, user: User) -> str:
    return (await current(stack, user)).status


async def spend(stack: PaymentStack, user: User, amount: int) -> None:
    async with stack.database.transaction() as connection:
        await grants.adjust(connection, user.id, amount=-amount, reason="calls", actor="test")
