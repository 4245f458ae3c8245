"""A webhook without a valid signature has no effect, and no event is acknowledged before it is stored."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from gateway import metrics
from gateway.api.checkout import CheckoutService
from gateway.ledger.db.session import Database
from tests.payments.conftest import PRICES, STRIPE_SECRETS, stripe_provider
from tests.payments.fake_stripe import FakeStripe, Object, signed
from tests.payments.payment_stack import PATHS, PaymentStack, account_app, payment_stack


@pytest.fixture
async def fake_stripe() -> FakeStripe:
    return FakeStripe(PRICES)


@pytest.fixture
async def stack(own_database_url: str, fake_stripe: FakeStripe) -> AsyncIterator[PaymentStack]:
    database, provider = Database(own_database_url), stripe_provider(fake_stripe)
    async with payment_stack(database, provider) as made:
        yield made
    await provider.close()
    await database.close()


async def paid_checkout_event(stack: PaymentStack, fake_stripe: FakeStripe) -> tuple[Object, PaymentStack]:
    """The event of a new user's paid checkout, not delivered yet."""
    user = await stack.create_user()
    checkout = await stack.subscribe(user)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    return next(each for each in fake_stripe.new_events() if each["type"] == "checkout.session.completed"), stack


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
async def test_webhook_without_a_present_valid_signature_is_refused(
    stack: PaymentStack, fake_stripe: FakeStripe, forge: object
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    body, headers = forge(event)  # type: ignore[operator] # one of the functions above
    refused = await stack.deliver(body, headers, status=400)
    assert refused["code"] == "invalid_webhook"
    await stack.process_all()
    assert await stack.event_reasons("processed") == []


@pytest.mark.parametrize("secret", STRIPE_SECRETS)
async def test_webhook_verifies_with_either_secret_during_rotation(
    stack: PaymentStack, fake_stripe: FakeStripe, secret: str
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    assert (await stack.deliver(*signed(event, secret)))["is_new"]


async def test_webhook_verifies_with_one_valid_signature_of_several(
    stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    body, headers = signed(event, STRIPE_SECRETS[0])
    moment, right = headers["stripe-signature"].split(",")
    assert (await stack.deliver(body, {"stripe-signature": f"{moment},v1={'0' * 64},{right}"}))["is_new"]


@pytest.mark.parametrize("hostile", ["\0", "\ud800", "a\0b\udfff", float("inf"), float("nan"), 2**63, "x" * 100_000])
async def test_webhook_that_no_column_holds_as_it_is_is_stored_and_stops_no_other(
    stack: PaymentStack, fake_stripe: FakeStripe, hostile: str | float
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    strange = {**event, "id": f"evt_{uuid4().hex}", "extra": {"deep": [hostile], f"name {hostile}"[:100]: 1}}
    for each in (strange, event):
        body, headers = signed(each, STRIPE_SECRETS[0])
        response = await stack.client.post(PATHS["stripe"], content=body, headers=headers)
        assert response.status_code == 200, response.text
        assert response.json()["is_new"]


@pytest.mark.parametrize(("depth", "status"), [(50, 200), (400, 400), (700, 400)])
@pytest.mark.parametrize("is_object", [True, False])
async def test_webhook_nested_deeper_than_any_event_is_refused(
    stack: PaymentStack, fake_stripe: FakeStripe, is_object: bool, depth: int, status: int
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    nested: object = 1
    for _ in range(depth):
        nested = {"a": nested} if is_object else [nested]
    await stack.deliver(*signed({**event, "extra": nested}, STRIPE_SECRETS[0]), status=status)


async def test_duplicate_webhook_is_acknowledged_without_effect(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stack.create_user()
    checkout = await stack.subscribe(user)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    event = fake_stripe.new_events()[-1]
    assert (await stack.deliver(*signed(event, STRIPE_SECRETS[0])))["is_new"]
    await stack.process_all()
    before = await stack.billing_state(user)
    assert before.balance == 1000
    assert not (await stack.deliver(*signed(event, STRIPE_SECRETS[0])))["is_new"]
    assert await stack.process_all() == 0
    assert await stack.billing_state(user) == before


@pytest.mark.parametrize(
    ("unrelated", "why"),
    [({"livemode": True}, "live mode"), ({"account": "acct_other"}, "connected account acct_other")],
)
async def test_webhook_of_another_mode_or_account_is_stored_as_ignored(
    stack: PaymentStack, fake_stripe: FakeStripe, unrelated: Object, why: str
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    await stack.deliver(*signed({**event, **unrelated}, STRIPE_SECRETS[0]))
    assert await stack.process_all() == 0
    (reason,) = await stack.event_reasons("ignored")
    assert why in reason


async def test_subscription_of_another_customer_is_a_mismatch(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    victim, other = await stack.create_user(), await stack.create_user()
    checkout = await stack.subscribe(victim)
    await stack.subscribe(other)
    customers = [each for each in fake_stripe.objects.values() if each["object"] == "customer"]
    fake_stripe.objects[checkout.provider_checkout_id or ""]["customer"] = customers[1]["id"]
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    for event in fake_stripe.new_events():
        await stack.deliver(*signed(event, STRIPE_SECRETS[0]))
    for _ in range(6):
        await stack.processor.run_once()
    assert any("Mismatch" in reason for reason in await stack.event_reasons("failed"))
    assert await stack.balance(victim) == await stack.balance(other) == 0


async def test_webhook_is_not_acknowledged_unless_stored(fake_stripe: FakeStripe) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none")
    provider = stripe_provider(fake_stripe)
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


@pytest.fixture
async def stack_without_provider(own_database_url: str) -> AsyncIterator[PaymentStack]:
    database = Database(own_database_url)
    async with payment_stack(database, None) as stack:
        yield stack
    await database.close()


async def test_gateway_without_a_provider_answers_501_to_sales_and_webhooks(
    stack_without_provider: PaymentStack,
) -> None:
    closed = stack_without_provider
    async with await closed.client_for(await closed.create_user()) as client:
        for path, body in (("/me/credits/checkout", {"pack": "pack-100"}), ("/me/billing/portal", {})):
            refused = await client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (501, "payments_not_configured")
        for path in PATHS.values():
            assert (await closed.client.post(path, content=b"{}")).status_code == 501
        assert (await client.get("/me/payments")).json()["data"] == []


async def test_failed_event_shows_its_reason_and_is_retried(stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    fake_stripe.down = True
    stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits
    await stack.deliver(*signed(event, STRIPE_SECRETS[0]))
    assert await stack.processor.run_once() == 1
    (reason,) = await stack.event_reasons("failed")
    assert "ProviderUnavailable" in reason
    assert await stack.processor.run_once() == 0  # not due yet
    fake_stripe.down = False
    await stack.process_all()
    assert await stack.event_reasons("processed") == [""]


async def test_webhook_of_an_unknown_provider_is_not_found(stack_without_provider: PaymentStack) -> None:
    for name in ("paddle", "lemon_squeezy", "Stripe"):
        refused = await stack_without_provider.client.post(f"/webhooks/{name}", content=b"{}")
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


async def test_types_that_the_gateway_does_not_know_are_counted_as_one(
    stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    event, _ = await paid_checkout_event(stack, fake_stripe)
    unknown = f"customer.{uuid4().hex}"
    await stack.deliver(*signed({**event, "type": unknown}, STRIPE_SECRETS[0]))
    assert await stack.process_all() == 1
    counted = {sample.labels["type"] for metric in metrics.WEBHOOK_EVENTS.collect() for sample in metric.samples}
    assert metrics.OTHER in counted
    assert unknown not in counted
