"""What is posted to the webhook doors without right or reason has no effect, and nothing is acknowledged unstored."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.api.checkout import CheckoutService
from gateway.ledger.db.session import Database
from tests.payments.conftest import PRICES, STRIPE_SECRETS, stripe_provider
from tests.payments.fake_stripe import FakeStripe, Object, signed
from tests.payments.payment_stack import PATHS, PaymentStack, account_app, payment_stack


@pytest.fixture
async def world() -> FakeStripe:
    return FakeStripe(PRICES)


@pytest.fixture
async def selling(own_database_url: str, world: FakeStripe) -> AsyncIterator[PaymentStack]:
    database, provider = Database(own_database_url), stripe_provider(world)
    async with payment_stack(database, provider) as made:
        yield made
    await provider.close()
    await database.close()


async def a_paid_event(selling: PaymentStack, world: FakeStripe) -> tuple[Object, PaymentStack]:
    """The message that a new user's checkout is paid, not delivered yet."""
    user = await selling.create_user()
    checkout = await selling.subscribe(user)
    world.complete(checkout.provider_checkout_id or "")
    return next(each for each in world.new_events() if each["type"] == "checkout.session.completed"), selling


def wrongly_signed(event: Object) -> tuple[bytes, dict[str, str]]:
    return signed(event, "whsec_of_someone_else")


def old(event: Object) -> tuple[bytes, dict[str, str]]:
    return signed(event, STRIPE_SECRETS[0], at=int(time.time()) - 301)


def early(event: Object) -> tuple[bytes, dict[str, str]]:
    return signed(event, STRIPE_SECRETS[0], at=int(time.time()) + 400)


def truncated(event: Object) -> tuple[bytes, dict[str, str]]:
    body, headers = signed(event, STRIPE_SECRETS[0])
    return body[:-1], headers


def re_serialised(event: Object) -> tuple[bytes, dict[str, str]]:
    body, headers = signed(event, STRIPE_SECRETS[0])
    return json.dumps(json.loads(body), separators=(",", ":")).encode(), headers


def unsigned(event: Object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(event).encode(), {}


def of_another_scheme(event: Object) -> tuple[bytes, dict[str, str]]:
    body, headers = signed(event, STRIPE_SECRETS[0])
    return body, {"stripe-signature": headers["stripe-signature"].replace("v1=", "v0=")}


def no_event(event: Object) -> tuple[bytes, dict[str, str]]:  # noqa: ARG001 - as its siblings
    return signed({"object": "event", "id": "evt_1"}, STRIPE_SECRETS[0])


@pytest.mark.parametrize(
    "forge", [wrongly_signed, old, early, truncated, re_serialised, unsigned, of_another_scheme, no_event]
)
async def test_what_stripe_did_not_sign_just_now_is_refused(
    selling: PaymentStack, world: FakeStripe, forge: object
) -> None:
    event, _ = await a_paid_event(selling, world)
    body, headers = forge(event)  # type: ignore[operator] # one of the functions above
    refused = await selling.deliver(body, headers, status=400)
    assert refused["code"] == "invalid_webhook"
    await selling.process_all()
    assert await selling.events("processed") == []


@pytest.mark.parametrize("secret", STRIPE_SECRETS)
async def test_either_secret_holds_while_one_is_rolled(selling: PaymentStack, world: FakeStripe, secret: str) -> None:
    event, _ = await a_paid_event(selling, world)
    assert (await selling.deliver(*signed(event, secret)))["is_new"]


async def test_of_several_signatures_one_must_be_right(selling: PaymentStack, world: FakeStripe) -> None:
    event, _ = await a_paid_event(selling, world)
    body, headers = signed(event, STRIPE_SECRETS[0])
    moment, right = headers["stripe-signature"].split(",")
    assert (await selling.deliver(body, {"stripe-signature": f"{moment},v1={'0' * 64},{right}"}))["is_new"]


async def test_a_replay_is_acknowledged_and_has_no_effect(selling: PaymentStack, world: FakeStripe) -> None:
    user = await selling.create_user()
    checkout = await selling.subscribe(user)
    world.complete(checkout.provider_checkout_id or "")
    event = world.new_events()[-1]
    assert (await selling.deliver(*signed(event, STRIPE_SECRETS[0])))["is_new"]
    await selling.process_all()
    before = await selling.billing_state(user)
    assert before.balance == 1000
    assert not (await selling.deliver(*signed(event, STRIPE_SECRETS[0])))["is_new"]
    assert await selling.process_all() == 0
    assert await selling.billing_state(user) == before


@pytest.mark.parametrize(
    ("foreign", "why"),
    [({"livemode": True}, "live mode"), ({"account": "acct_other"}, "connected account acct_other")],
)
async def test_other_modes_and_accounts_are_kept_and_ignored(
    selling: PaymentStack, world: FakeStripe, foreign: Object, why: str
) -> None:
    event, _ = await a_paid_event(selling, world)
    await selling.deliver(*signed({**event, **foreign}, STRIPE_SECRETS[0]))
    assert await selling.process_all() == 0
    (reason,) = await selling.events("ignored")
    assert why in reason


async def test_another_customers_subscription_is_not_taken_for_this_users(
    selling: PaymentStack, world: FakeStripe
) -> None:
    victim, other = await selling.create_user(), await selling.create_user()
    checkout = await selling.subscribe(victim)
    await selling.subscribe(other)
    customers = [each for each in world.objects.values() if each["object"] == "customer"]
    world.objects[checkout.provider_checkout_id or ""]["customer"] = customers[1]["id"]
    world.complete(checkout.provider_checkout_id or "")
    for event in world.new_events():
        await selling.deliver(*signed(event, STRIPE_SECRETS[0]))
    for _ in range(6):
        await selling.processor.run_once()
    assert any("Mismatch" in reason for reason in await selling.events("failed"))
    assert await selling.balance(victim) == await selling.balance(other) == 0


async def test_an_event_that_is_not_stored_is_not_acknowledged(world: FakeStripe) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none")
    provider = stripe_provider(world)
    app = account_app(gone, CheckoutService(providers={"stripe": provider}))
    event = {
        "id": "evt_1",
        "object": "event",
        "type": "invoice.paid",
        "livemode": False,
        "data": {"object": {"id": "in_1"}},
    }
    body, headers = signed(event, STRIPE_SECRETS[0])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        answer = await client.post(PATHS["stripe"], content=body, headers=headers)
    assert answer.status_code == 503
    await provider.close()
    await gone.close()


async def test_without_a_provider_nothing_is_sold_and_no_door_is_open(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with payment_stack(database, None) as closed:
        client = await closed.client_for(await closed.create_user())
        for path, body in (("/me/credits/checkout", {"pack": "pack-100"}), ("/me/billing/portal", {})):
            refused = await client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (501, "payments_not_configured")
        for path in PATHS.values():
            assert (await closed.client.post(path, content=b"{}")).status_code == 501
        assert (await client.get("/me/payments")).json()["data"] == []
    await database.close()


async def test_what_fails_is_shown_and_tried_again(selling: PaymentStack, world: FakeStripe) -> None:
    event, _ = await a_paid_event(selling, world)
    world.down = True
    selling.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    await selling.deliver(*signed(event, STRIPE_SECRETS[0]))
    assert await selling.processor.run_once() == 1
    (reason,) = await selling.events("failed")
    assert "ProviderUnavailable" in reason
    assert await selling.processor.run_once() == 0  # not due yet
    world.down = False
    await selling.process_all()
    assert await selling.events("processed") == [""]
