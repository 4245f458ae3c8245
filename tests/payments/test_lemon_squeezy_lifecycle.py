"""A subscription's life at Lemon Squeezy, over HTTP both ways: what we ask its API, what it posts to us, signed."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import CredentialsRejected, PriceChange
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.api.conftest import admin_app, client_of
from tests.ledger.make import list_notifications
from tests.payments.conftest import LEMON_SQUEEZY_SECRETS, lemon_squeezy_provider
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy, Resource, signed
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.test_provider_poller import poll_fully


async def test_lemon_squeezy_lifecycle_is_followed_step_by_step(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    remote = await subscribe_and_pay(lemon_squeezy_stack, fake_lemon_squeezy, user)
    found = await current_subscription(lemon_squeezy_stack, user)
    assert (found.status, found.plan_id, found.provider) == ("active", "pro", "lemon_squeezy")
    assert await lemon_squeezy_stack.balance(user) == 1000
    paid = only(
        await lemon_squeezy_stack.payments(user), "subscription"
    )  # and no second one for the order that came along
    assert (str(paid.amount), paid.status, paid.credits_awarded) == ("29.99", "completed", 1000)

    fake_lemon_squeezy.renew(remote)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert (await lemon_squeezy_stack.billing_state(user)).granted == 2000

    paid_until = (await current_subscription(lemon_squeezy_stack, user)).current_period_end
    unpaid = fake_lemon_squeezy.renew(remote, succeeds=False)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    late = await current_subscription(lemon_squeezy_stack, user)
    assert (late.status, late.current_period_end) == ("past_due", paid_until)
    assert (await lemon_squeezy_stack.billing_state(user)).granted == 2000

    fake_lemon_squeezy.recover(remote, unpaid)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert (await current_subscription(lemon_squeezy_stack, user)).status == "active"
    assert (await lemon_squeezy_stack.billing_state(user)).granted == 3000

    client = await lemon_squeezy_stack.client_for(user)
    ending = await client.delete(f"/subscriptions/{found.id}")
    assert (ending.status_code, ending.json()["cancel_at_period_end"]) == (200, True), ending.text
    going_on = await client.post(f"/subscriptions/{found.id}/undo-cancel")
    assert going_on.json()["cancel_at_period_end"] is False, going_on.text
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)

    fake_lemon_squeezy.expire(remote)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert (await current_subscription(lemon_squeezy_stack, user)).status == "expired"


async def test_lemon_squeezy_upgrade_is_applied_with_prorated_credits(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    await subscribe_and_pay(lemon_squeezy_stack, fake_lemon_squeezy, user, plan="basic")
    client = await lemon_squeezy_stack.client_for(user)
    changed = await client.post(
        f"/subscriptions/{(await current_subscription(lemon_squeezy_stack, user)).id}/change", json={"plan_id": "pro"}
    )
    assert (changed.status_code, changed.json()["plan_id"]) == (200, "pro"), changed.text
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert 990 <= await lemon_squeezy_stack.balance(user) <= 1000
    assert sorted(str(row.amount) for row in await lemon_squeezy_stack.payments(user)) == ["20.00", "9.99"]


async def test_lemon_squeezy_refunds_claw_back_credits_once(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    await subscribe_and_pay(lemon_squeezy_stack, fake_lemon_squeezy, user)
    payment = only(await lemon_squeezy_stack.payments(user), "subscription").provider_payment_id or ""
    await lemon_squeezy_stack.provider.refund(payment, amount=Decimal("10.00"), currency="USD", key="a")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.balance(user) == 1000 - 333
    await lemon_squeezy_stack.provider.refund(payment, amount=None, currency="USD", key="b")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.balance(user) == 0
    assert str(only(await lemon_squeezy_stack.payments(user), "refund").amount) == "29.99"
    async with lemon_squeezy_stack.database.read() as connection:
        told = await list_notifications(connection, user.id)
    assert [each["amount"] for kind, each in told if kind == "payment.refunded"] == ["10.00", "19.99"]


async def test_lemon_squeezy_pack_is_granted_once_by_confirmation_or_webhook(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    client = await lemon_squeezy_stack.client_for(user)
    bought = (await client.post("/me/credits/checkout", json={"pack": "pack-100"})).json()
    fake_lemon_squeezy.limited = 1  # the client retries after the time of retry-after
    fake_lemon_squeezy.pay_checkout(bought["url"].rpartition("/")[2])
    confirmed = await client.post(f"/me/checkout/{bought['id']}/confirm")
    assert confirmed.json()["status"] == "completed", confirmed.text
    assert await lemon_squeezy_stack.balance(user) == 100
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.balance(user) == 100


@pytest.mark.parametrize("off", [100, 500])
async def test_lemon_squeezy_pack_bought_with_a_discount_code_gives_its_credits(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy, off: int
) -> None:
    user = await lemon_squeezy_stack.create_user()
    checkout = await lemon_squeezy_stack.buy_pack(user)
    fake_lemon_squeezy.discount = off
    fake_lemon_squeezy.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    row = only(await lemon_squeezy_stack.payments(user), "credits")
    assert (row.status, row.amount, row.credits_awarded) == ("completed", Decimal(500 - off) / 100, 100)
    assert await lemon_squeezy_stack.balance(user) == 100


async def test_lemon_squeezy_order_that_turns_out_to_be_a_fraud_loses_its_credits(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    order = fake_lemon_squeezy.pay_checkout((await lemon_squeezy_stack.buy_pack(user)).provider_checkout_id or "")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.balance(user) == 100
    for status, balance, booked in (("fraudulent", 0, "failed"), ("paid", 100, "completed")):
        fake_lemon_squeezy._touch(order, status=status)
        fake_lemon_squeezy._emit("order_created", order, {})
        await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
        row = only(await lemon_squeezy_stack.payments(user), "credits")
        assert (await lemon_squeezy_stack.balance(user), row.status) == (balance, booked)


@pytest.mark.parametrize("subtotal", [(420, 2520), (500, 2999)], ids=["net", "gross"])
async def test_lemon_squeezy_prices_with_tax_are_what_is_asked_for(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy, subtotal: tuple[int, int]
) -> None:
    """Of a store whose prices include tax."""
    user = await lemon_squeezy_stack.create_user()
    order = fake_lemon_squeezy.pay_checkout((await lemon_squeezy_stack.buy_pack(user)).provider_checkout_id or "")
    order["attributes"].update(tax_inclusive=True, subtotal=subtotal[0], tax=80)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.balance(user) == 100
    checkout = await lemon_squeezy_stack.subscribe(user)
    fake_lemon_squeezy.pay_checkout(checkout.provider_checkout_id or "")
    for (kind, _), each in fake_lemon_squeezy.found.items():
        if kind == "subscription-invoices":
            each["attributes"].update(tax_inclusive=True, subtotal=subtotal[1], tax=479)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    async with await lemon_squeezy_stack.client_for(user) as client:
        (invoice,) = (await client.get("/me/invoices")).json()["data"]
    assert [invoice[name] for name in ("subtotal", "tax", "total")] == ["25.20", "4.79", "29.99"]


async def test_lemon_squeezy_pack_refund_by_an_operator_is_booked_at_once(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    fake_lemon_squeezy.pay_checkout((await lemon_squeezy_stack.buy_pack(user)).provider_checkout_id or "")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    bought = only(await lemon_squeezy_stack.payments(user), "credits")
    wish = {"payment_id": str(bought.id), "reason": "not used"}

    async def publish() -> None:
        return None

    async with client_of(
        admin_app(
            lemon_squeezy_stack.database, publish, missing={}, checkout_service=lemon_squeezy_stack.checkout_service
        )
    ) as operator:
        some = wish | {"amount": "2.00"}
        both = await asyncio.gather(*(operator.post("/admin/v1/refunds", json=some) for _ in range(2)))
        assert sorted(each.status_code for each in both) == [201, 409]
        assert next(each for each in both if each.status_code == 201).json()["refunded_amount"] == "2.00"
        answer = await operator.post("/admin/v1/refunds", json=wish)
        assert answer.status_code == 201, answer.text
        given_back = answer.json()
        assert (given_back["status"], given_back["refunded_amount"]) == ("refunded", "5.00")
        assert given_back["description"] == "100 credits"
        assert (await operator.post("/admin/v1/refunds", json=wish)).status_code == 409
    assert await lemon_squeezy_stack.balance(user) == 0


async def test_lemon_squeezy_buyer_with_another_address_is_identified_by_the_checkout(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    checkout = await lemon_squeezy_stack.subscribe(user)
    fake_lemon_squeezy.pay_checkout(checkout.provider_checkout_id or "", email="someone@else.example")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert (await current_subscription(lemon_squeezy_stack, user)).status == "active"


async def test_lemon_squeezy_portal_is_for_the_owner_of_the_address(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    """Anybody can register with the address of a customer of the store, or pay under it."""
    user = await lemon_squeezy_stack.create_user()
    owner = fake_lemon_squeezy._customer(user.email)
    async with await lemon_squeezy_stack.client_for(user) as client:
        refused = await client.post("/me/billing/portal")
        assert (refused.status_code, "verify the address" in refused.text) == (409, True), refused.text
        await change_user(lemon_squeezy_stack, user, email_verified_at=now())
        assert (await client.post("/me/billing/portal")).json()["url"] == owner["attributes"]["urls"]["customer_portal"]
        await change_user(lemon_squeezy_stack, user, email="another@example.com")
        assert (await client.post("/me/billing/portal")).status_code == 409


async def change_user(stack: PaymentStack, user: User, **changes: Any) -> None:
    async with stack.database.transaction() as connection:
        await users.patch(connection, user.id, **changes)


async def test_lemon_squeezy_polling_makes_up_for_lost_webhooks(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    instant = now()
    poller = ProviderPoller(
        lemon_squeezy_stack.database, lemon_squeezy_stack.provider, interval=timedelta(minutes=15), now=lambda: instant
    )
    await poll_fully(poller)
    user = await lemon_squeezy_stack.create_user()
    checkout = await lemon_squeezy_stack.subscribe(user)
    remote = fake_lemon_squeezy.pay_checkout(checkout.provider_checkout_id or "")
    fake_lemon_squeezy.renew(remote, succeeds=False)
    instant += timedelta(days=1)
    await poll_fully(poller)
    await lemon_squeezy_stack.process_all()
    polled = await lemon_squeezy_stack.billing_state(user)
    assert (polled.status, polled.granted) == ("past_due", 1000)
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert await lemon_squeezy_stack.billing_state(user) == polled


async def test_lemon_squeezy_polling_skips_malformed_objects(fake_lemon_squeezy: FakeLemonSqueezy) -> None:
    sound = fake_lemon_squeezy._order(1, "buyer@example.com", "900")
    odd = fake_lemon_squeezy._order(1, "buyer@example.com", "900")
    odd["attributes"]["updated_at"] = "soon"
    provider = lemon_squeezy_provider(fake_lemon_squeezy)
    changes = await provider.changed_since(now() - timedelta(days=1), page="orders:1")
    await provider.close()
    assert [each.payload["data"]["id"] for each in changes.changes] == [sound["id"]]
    assert len(changes.unreadable) == 1


async def test_lemon_squeezy_rejected_key_raises_credentials_rejected(fake_lemon_squeezy: FakeLemonSqueezy) -> None:
    provider = lemon_squeezy_provider(fake_lemon_squeezy)
    for fake_lemon_squeezy.key_refused in (401, 403):
        with pytest.raises(CredentialsRejected, match="Unauthenticated"):
            await provider.cancel("1", at_period_end=True)
    await provider.close()


@pytest.mark.parametrize("secret", LEMON_SQUEEZY_SECRETS)
async def test_lemon_squeezy_webhook_verifies_with_either_secret_during_rotation(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy, secret: str
) -> None:
    event = await an_event(lemon_squeezy_stack, fake_lemon_squeezy)
    assert (await lemon_squeezy_stack.deliver(*signed(event, secret)))["is_new"]
    assert not (await lemon_squeezy_stack.deliver(*signed(event, secret)))["is_new"]


async def test_lemon_squeezy_webhook_without_a_valid_signature_is_refused(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    event = await an_event(lemon_squeezy_stack, fake_lemon_squeezy)
    body, headers = signed(event, LEMON_SQUEEZY_SECRETS[0])
    compact = json.dumps(event, separators=(",", ":")).encode()
    forged: list[Any] = [(body, {}), (body[:-1], headers), (compact, headers), signed(event, "another")]
    for sent, under in forged:
        await lemon_squeezy_stack.deliver(sent, under, status=400)
    assert await lemon_squeezy_stack.process_all() == 0


@pytest.mark.parametrize(("where", "unrelated"), [("meta", {"test_mode": False}), ("attributes", {"store_id": 8})])
async def test_lemon_squeezy_webhook_of_another_mode_or_store_is_ignored(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy, where: str, unrelated: Resource
) -> None:
    event = await an_event(lemon_squeezy_stack, fake_lemon_squeezy)
    event["data"]["attributes"].update({"test_mode": False} if where == "meta" else unrelated)
    event["meta"].update(unrelated if where == "meta" else {})
    await lemon_squeezy_stack.deliver(*signed(event, LEMON_SQUEEZY_SECRETS[0]))
    assert await lemon_squeezy_stack.process_all() == 0
    assert len(await lemon_squeezy_stack.event_reasons("ignored")) == 1


async def an_event(lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy) -> Resource:
    checkout = await lemon_squeezy_stack.subscribe(await lemon_squeezy_stack.create_user())
    fake_lemon_squeezy.pay_checkout(checkout.provider_checkout_id or "")
    return next(
        each for each in fake_lemon_squeezy.new_events() if each["meta"]["event_name"] == "subscription_created"
    )


async def subscribe_and_pay(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy, user: User, plan: str = "pro"
) -> Resource:
    checkout = await lemon_squeezy_stack.subscribe(user, plan)
    remote = fake_lemon_squeezy.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    return remote


async def deliver_all(lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy) -> None:
    for payload in fake_lemon_squeezy.new_events():
        await lemon_squeezy_stack.deliver(*signed(payload, LEMON_SQUEEZY_SECRETS[0]))
    await lemon_squeezy_stack.process_all()
    assert not await lemon_squeezy_stack.event_reasons("failed")


async def current_subscription(lemon_squeezy_stack: PaymentStack, user: User) -> StoredSubscription:
    found = await lemon_squeezy_stack.subscription(user)
    assert found is not None
    return found


async def test_lemon_squeezy_seats_are_paid_for_when_they_are_added(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    remote = await subscribe_and_pay(lemon_squeezy_stack, fake_lemon_squeezy, user)
    await lemon_squeezy_stack.provider.change_plan(remote["id"], PriceChange("200", 3, "seats"))
    await deliver_all(lemon_squeezy_stack, fake_lemon_squeezy)
    assert "59.98" in [str(row.amount) for row in await lemon_squeezy_stack.payments(user)]
