"""A subscription's life at Lemon Squeezy, over HTTP both ways: what we ask its API, what it posts to us, signed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.clock import now
from gateway.ledger.accounts.users import User
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.lemon_squeezy.adapter import LemonSqueezy
from gateway.payments.provider import CredentialsRejected
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.api.conftest import admin_app, client_of
from tests.payments.fake_lemon_squeezy import STORE_ID, FakeLemonSqueezy, Resource, signed
from tests.payments.payment_stack import PaymentStack, only, payment_stack
from tests.payments.test_provider_poller import poll_fully

SECRETS = ("new-secret", "old-secret")


@pytest.fixture
def world() -> FakeLemonSqueezy:
    return FakeLemonSqueezy({"100": 999, "200": 2999, "900": 500})


@pytest.fixture
async def store(payments_database: Database, world: FakeLemonSqueezy) -> AsyncIterator[PaymentStack]:
    provider = lemon_squeezy(world)
    async with payment_stack(payments_database, provider) as made:
        yield made
    await provider.close()


def lemon_squeezy(world: FakeLemonSqueezy) -> LemonSqueezy:
    return LemonSqueezy(
        "key",
        api_base="http://lemon.test",
        store_id=str(STORE_ID),
        is_test=True,
        webhook_secrets=SECRETS,
        transport=httpx.ASGITransport(world.app),
    )


async def test_a_whole_life_is_followed_step_by_step(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    user = await store.create_user()
    remote = await begun(store, world, user)
    found = await current(store, user)
    assert (found.status, found.plan_id, found.provider) == ("active", "pro", "lemon_squeezy")
    assert await store.balance(user) == 1000
    paid = only(await store.payments(user), "subscription")  # and no second one for the order that came along
    assert (str(paid.amount), paid.status, paid.credits_awarded) == ("29.99", "completed", 1000)

    world.renew(remote)
    await deliver_all(store, world)
    assert (await store.billing_state(user)).granted == 2000

    paid_until = (await current(store, user)).current_period_end
    unpaid = world.renew(remote, succeeds=False)
    await deliver_all(store, world)
    late = await current(store, user)
    assert (late.status, late.current_period_end) == ("past_due", paid_until)
    assert (await store.billing_state(user)).granted == 2000

    world.recover(remote, unpaid)
    await deliver_all(store, world)
    assert (await current(store, user)).status == "active"
    assert (await store.billing_state(user)).granted == 3000

    client = await store.client_for(user)
    ending = await client.delete(f"/subscriptions/{found.id}")
    assert (ending.status_code, ending.json()["cancel_at_period_end"]) == (200, True), ending.text
    going_on = await client.post(f"/subscriptions/{found.id}/undo-cancel")
    assert going_on.json()["cancel_at_period_end"] is False, going_on.text
    await deliver_all(store, world)

    world.expire(remote)
    await deliver_all(store, world)
    assert (await current(store, user)).status == "expired"


async def test_an_upgrade_is_taken_over(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    user = await store.create_user()
    await begun(store, world, user, plan="basic")
    client = await store.client_for(user)
    changed = await client.post(f"/subscriptions/{(await current(store, user)).id}/change", json={"plan_id": "pro"})
    assert (changed.status_code, changed.json()["plan_id"]) == (200, "pro"), changed.text
    await deliver_all(store, world)
    assert 990 <= await store.balance(user) <= 1000
    assert sorted(str(row.amount) for row in await store.payments(user)) == ["20.00", "9.99"]


async def test_refunds_take_credits_back_once(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    user = await store.create_user()
    await begun(store, world, user)
    payment = only(await store.payments(user), "subscription").provider_payment_id or ""
    await store.provider.refund(payment, amount=Decimal("10.00"), currency="USD", key="a")
    await deliver_all(store, world)
    assert await store.balance(user) == 1000 - 333
    await store.provider.refund(payment, amount=None, currency="USD", key="b")
    await deliver_all(store, world)
    assert await store.balance(user) == 0
    assert str(only(await store.payments(user), "refund").amount) == "29.99"


async def test_a_pack_is_confirmed_by_who_comes_back_first(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    user = await store.create_user()
    client = await store.client_for(user)
    bought = (await client.post("/me/credits/checkout", json={"pack": "pack-100"})).json()
    world.limited = 1  # asked again, as told
    world.complete(bought["url"].rpartition("/")[2])
    confirmed = await client.post(f"/me/checkout/{bought['id']}/confirm")
    assert confirmed.json()["status"] == "completed", confirmed.text
    assert await store.balance(user) == 100
    await deliver_all(store, world)
    assert await store.balance(user) == 100


async def test_an_operators_refund_of_a_pack_is_booked_at_once(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    user = await store.create_user()
    world.complete((await store.buy_pack(user)).provider_checkout_id or "")
    await deliver_all(store, world)
    bought = only(await store.payments(user), "credits")
    wish = {"payment_id": str(bought.id), "reason": "not used"}

    async def publish() -> None:
        return None

    async with client_of(
        admin_app(store.database, publish, missing={}, checkout_service=store.checkout_service)
    ) as operator:
        answer = await operator.post("/admin/v1/refunds", json=wish)
        assert answer.status_code == 201, answer.text
        given_back = answer.json()
        assert (given_back["status"], given_back["refunded_amount"]) == ("refunded", "5.00")
        assert given_back["description"] == "100 credits"
        assert (await operator.post("/admin/v1/refunds", json=wish)).status_code == 409
    assert await store.balance(user) == 0


async def test_a_buyer_under_another_address_is_known_by_the_checkout(
    store: PaymentStack, world: FakeLemonSqueezy
) -> None:
    user = await store.create_user()
    checkout = await store.subscribe(user)
    world.complete(checkout.provider_checkout_id or "", email="someone@else.example")
    await deliver_all(store, world)
    assert (await current(store, user)).status == "active"


async def test_webhooks_lost_for_a_day_are_made_up_for_by_asking(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    instant = now()
    poller = ProviderPoller(store.database, store.provider, interval=timedelta(minutes=15), now=lambda: instant)
    await poll_fully(poller)
    user = await store.create_user()
    checkout = await store.subscribe(user)
    remote = world.complete(checkout.provider_checkout_id or "")
    world.renew(remote, succeeds=False)
    instant += timedelta(days=1)
    await poll_fully(poller)
    await store.process_all()
    polled = await store.billing_state(user)
    assert (polled.status, polled.granted) == ("past_due", 1000)
    await deliver_all(store, world)
    assert await store.billing_state(user) == polled


async def test_what_makes_no_sense_is_skipped_by_a_walk(world: FakeLemonSqueezy) -> None:
    sound = world._order(1, "buyer@example.com", "900")
    odd = world._order(1, "buyer@example.com", "900")
    odd["attributes"]["updated_at"] = "soon"
    provider = lemon_squeezy(world)
    changes = await provider.changed_since(now() - timedelta(days=1), page="orders:1")
    await provider.close()
    assert [each.payload["data"]["id"] for each in changes.changes] == [sound["id"]]
    assert len(changes.unreadable) == 1


async def test_a_key_that_is_not_taken_answers_nothing_that_was_asked(world: FakeLemonSqueezy) -> None:
    provider = lemon_squeezy(world)
    for world.key_refused in (401, 403):
        with pytest.raises(CredentialsRejected, match="Unauthenticated"):
            await provider.cancel("1", at_period_end=True)
    await provider.close()


@pytest.mark.parametrize("secret", SECRETS)
async def test_either_secret_holds(store: PaymentStack, world: FakeLemonSqueezy, secret: str) -> None:
    event = await an_event(store, world)
    assert (await store.deliver(*signed(event, secret)))["is_new"]
    assert not (await store.deliver(*signed(event, secret)))["is_new"]


async def test_what_it_did_not_sign_is_refused(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    event = await an_event(store, world)
    body, headers = signed(event, SECRETS[0])
    compact = json.dumps(event, separators=(",", ":")).encode()
    forged: list[Any] = [(body, {}), (body[:-1], headers), (compact, headers), signed(event, "another")]
    for sent, under in forged:
        await store.deliver(sent, under, status=400)
    assert await store.process_all() == 0


@pytest.mark.parametrize(("where", "foreign"), [("meta", {"test_mode": False}), ("attributes", {"store_id": 8})])
async def test_other_modes_and_stores_are_ignored(
    store: PaymentStack, world: FakeLemonSqueezy, where: str, foreign: Resource
) -> None:
    event = await an_event(store, world)
    event["data"]["attributes"].update({"test_mode": False} if where == "meta" else foreign)
    event["meta"].update(foreign if where == "meta" else {})
    await store.deliver(*signed(event, SECRETS[0]))
    assert await store.process_all() == 0
    assert len(await store.events("ignored")) == 1


async def an_event(store: PaymentStack, world: FakeLemonSqueezy) -> Resource:
    checkout = await store.subscribe(await store.create_user())
    world.complete(checkout.provider_checkout_id or "")
    return next(each for each in world.new_events() if each["meta"]["event_name"] == "subscription_created")


async def begun(store: PaymentStack, world: FakeLemonSqueezy, user: User, plan: str = "pro") -> Resource:
    checkout = await store.subscribe(user, plan)
    remote = world.complete(checkout.provider_checkout_id or "")
    await deliver_all(store, world)
    return remote


async def deliver_all(store: PaymentStack, world: FakeLemonSqueezy) -> None:
    for payload in world.new_events():
        await store.deliver(*signed(payload, SECRETS[0]))
    await store.process_all()
    assert not await store.events("failed")


async def current(store: PaymentStack, user: User) -> StoredSubscription:
    found = await store.subscription(user)
    assert found is not None
    return found
