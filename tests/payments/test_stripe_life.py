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
from tests.payments.market import Market, only


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
    """What Stripe has to say since the last time is delivered, in order, and acted on."""
    for event in world.unheard():
        await market.deliver(*signed(event, STRIPE_SECRETS[0]))
    await market.work_off()
    assert not await market.events("failed")


async def test_a_whole_life_is_followed_step_by_step(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    subscription_id = await begun(market, world, user)

    world.renew(subscription_id)
    await hear_all(market, world)
    assert await status_of(market, user) == "active"
    assert (await market.standing(user)).granted == 2000

    paid_until = (await current(market, user)).current_period_end
    unpaid = world.renew(subscription_id, succeeds=False)
    await hear_all(market, world)
    late = await current(market, user)
    assert late.status == "past_due"
    assert late.current_period_end == paid_until  # the grace begins where the paid period ended
    assert (await market.standing(user)).granted == 2000
    failed = [row for row in await market.payments(user) if row.status == "failed"]
    assert len(failed) == 1

    world.recover(unpaid["id"])
    await hear_all(market, world)
    assert await status_of(market, user) == "active"
    assert (await market.standing(user)).granted == 3000
    assert [row.status for row in await market.payments(user)] == ["completed"] * 3

    await market.provider.cancel(subscription_id, at_period_end=True)
    await hear_all(market, world)
    assert (await current(market, user)).cancel_at_period_end
    await market.provider.resume(subscription_id)
    await hear_all(market, world)
    assert not (await current(market, user)).cancel_at_period_end

    world.end(subscription_id)
    await hear_all(market, world)
    assert await status_of(market, user) == "canceled"


async def test_an_upgrade_is_paid_for_and_its_credits_are_prorated(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    subscription_id = await begun(market, world, user, plan="basic")
    await market.provider.change_plan(subscription_id, price_id="price_pro", quantity=1, key="once")
    await market.provider.change_plan(subscription_id, price_id="price_pro", quantity=1, key="once")
    await hear_all(market, world)
    upgraded = await current(market, user)
    assert upgraded.plan_id == "pro"
    assert 990 <= await market.balance(user) <= 1000  # the period has just begun
    assert sorted(str(row.amount) for row in await market.payments(user)) == ["20.00", "9.99"]


async def test_a_refund_takes_back_what_is_left_and_leaves_a_debt_for_the_rest(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    await begun(market, world, user)
    await spend(market, user, 400)
    payment = only(await market.payments(user), "subscription")

    await market.provider.refund(payment.provider_payment_id or "", amount=Decimal("10.00"), currency="USD", key="a")
    await hear_all(market, world)
    assert await market.balance(user) == 600 - 333  # a third of what it gave, rounded down
    partly = only(await market.payments(user), "subscription")
    assert (partly.status, str(partly.refunded_amount), partly.credits_withdrawn) == (
        "partially_refunded",
        "10.00",
        333,
    )

    await market.provider.refund(payment.provider_payment_id or "", amount=None, currency="USD", key="b")
    await hear_all(market, world)
    assert await market.balance(user) == -400
    wholly = only(await market.payments(user), "subscription")
    assert (wholly.status, str(wholly.refunded_amount), wholly.credits_withdrawn) == ("refunded", "29.99", 1000)
    backs = [row for row in await market.payments(user) if row.transaction_type == "refund"]
    assert sorted(str(row.amount) for row in backs) == ["10.00", "19.99"]
    assert {row.refers_to_id for row in backs} == {payment.id}


async def test_a_refund_that_failed_is_no_refund(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    await begun(market, world, user)
    payment_id = only(await market.payments(user), "subscription").provider_payment_id or ""
    lasting, failing = world.refund(payment_id, 1000), world.refund(payment_id, 500)
    await hear_all(market, world)
    assert await market.balance(user) == 1000 - 500
    world.fail_refund(failing)
    await hear_all(market, world)
    rows = {row.provider_payment_id: row for row in await market.payments(user)}
    assert (rows[lasting["id"]].status, rows[failing["id"]].status) == ("completed", "failed")
    assert (rows[payment_id].status, rows[payment_id].refunded_amount) == ("partially_refunded", Decimal("10.00"))
    assert await market.balance(user) == 1000 - 333

    world.fail_refund(lasting)  # now Stripe says that nothing was given back
    await hear_all(market, world)
    assert await market.balance(user) == 1000
    assert only(await market.payments(user), "subscription").status == "completed"
    assert {row.status for row in await market.payments(user) if row.transaction_type == "refund"} == {"failed"}


async def test_a_dispute_takes_the_credits_until_it_is_won(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    await begun(market, world, user)
    payment = only(await market.payments(user), "subscription")
    dispute_id = world.dispute(payment.provider_payment_id or "")
    await hear_all(market, world)
    assert await market.balance(user) == 0
    assert only(await market.payments(user), "subscription").status == "disputed"

    world.decide(dispute_id, "won")
    await hear_all(market, world)
    assert await market.balance(user) == 1000
    assert only(await market.payments(user), "subscription").status == "completed"
    assert only(await market.payments(user), "dispute").status == "failed"


async def test_a_pack_gives_its_credits_once_however_it_is_confirmed(
    stripe_market: Market, stripe_world: FakeStripe
) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    client = await market.signed_in(user)
    bought = await client.post("/me/credits/checkout", json={"pack": "pack-100"})
    assert bought.status_code == 201, bought.text
    confirm = f"/me/checkout/{bought.json()['id']}/confirm"
    assert (await client.post(confirm)).json()["status"] == "open"

    world.complete(bought.json()["url"].rpartition("/")[2])
    answers = await asyncio.gather(*(client.post(confirm) for _ in range(4)), hear_all(market, world))
    assert {answer.status_code for answer in answers[:4] if answer} == {200}
    assert (await client.post(confirm)).json()["status"] == "completed"
    assert await market.balance(user) == 100
    listed = (await client.get("/me/payments")).json()["data"]
    assert [(row["transaction_type"], row["amount"], row["credits_awarded"]) for row in listed] == [
        ("credits", "5.00", 100)
    ]
    stranger = await market.signed_in(await market.a_user())
    assert (await stranger.post(confirm)).status_code == 404
    assert (await stranger.get("/me/payments")).json()["data"] == []


async def test_too_little_money_buys_nothing(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    checkout = await market.buy_pack(user)
    world.objects[checkout.provider_checkout_id or ""]["_amount"] = 499
    world.complete(checkout.provider_checkout_id or "")
    await hear_all(market, world)
    assert await market.balance(user) == 0
    row = only(await market.payments(user), "credits")
    assert "asked for 5.00" in (row.error_message or "")


async def test_the_providers_invoices_are_mirrored_and_shown(stripe_market: Market, stripe_world: FakeStripe) -> None:
    market, world = stripe_market, stripe_world
    user = await market.a_user()
    await begun(market, world, user)
    client = await market.signed_in(user)
    (invoice,) = (await client.get("/me/invoices")).json()["data"]
    assert (invoice["status"], invoice["total"], invoice["number"]) == ("paid", "29.99", None)
    assert invoice["provider_number"].startswith("F-")
    page = await client.get(f"/me/invoices/{invoice['id']}/html")
    assert "29.99" in page.text
    file = await client.get(f"/me/invoices/{invoice['id']}/pdf")
    assert file.content.startswith(b"%PDF-")


async def begun(market: Market, world: FakeStripe, user: User, plan: str = "pro") -> str:
    """The provider's id of a subscription that is paid for."""
    checkout = await market.subscribe(user, plan)
    world.complete(checkout.provider_checkout_id or "")
    await hear_all(market, world)
    return str(world.objects[checkout.provider_checkout_id or ""]["subscription"])


async def current(market: Market, user: User) -> StoredSubscription:
    found = await market.subscription(user)
    assert found is not None
    return found


async def status_of(market: Market, user: User) -> str:
    return (await current(market, user)).status


async def spend(market: Market, user: User, amount: int) -> None:
    async with market.database.transaction() as connection:
        await grants.adjust(connection, user.id, amount=-amount, reason="calls", actor="test")
