"""Checkouts ask for what the configuration says, and the portal leads back to where the customer came from."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from gateway.api.checkout import _provider_calls
from gateway.payments.stripe.sessions import CheckoutOptions
from policies.access.throttling import PROVIDER_CALLS_OF_ACCOUNT
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PACK, PaymentStack, account_app, only
from tests.payments.test_stripe_lifecycle import deliver_all, subscribe_and_pay

EVERYTHING = CheckoutOptions(automatic_tax=True, tax_id_collection=True, promotion_codes=True, requires_address=True)


def with_options(stack: PaymentStack, options: CheckoutOptions) -> None:
    stack.provider._checkout_options = options  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (CheckoutOptions(), {}),
        (
            CheckoutOptions(automatic_tax=True),
            {"automatic_tax": {"enabled": "true"}, "customer_update": {"address": "auto"}},
        ),
        (
            CheckoutOptions(tax_id_collection=True),
            {"tax_id_collection": {"enabled": "true"}, "customer_update": {"name": "auto"}},
        ),
        (
            EVERYTHING,
            {
                "automatic_tax": {"enabled": "true"},
                "tax_id_collection": {"enabled": "true"},
                "allow_promotion_codes": "true",
                "billing_address_collection": "required",
                "customer_update": {"address": "auto", "name": "auto"},
            },
        ),
    ],
)
async def test_checkout_asks_for_what_is_configured(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, options: CheckoutOptions, asked: dict[str, Any]
) -> None:
    with_options(stripe_stack, options)
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    (session,) = fake_stripe.sessions
    names = (
        "automatic_tax",
        "tax_id_collection",
        "allow_promotion_codes",
        "billing_address_collection",
        "customer_update",
    )
    assert {name: session[name] for name in names if name in session} == asked


@pytest.mark.parametrize("paid", [400, 595, 0])
async def test_pack_paid_with_a_promotion_code_or_with_tax_gives_its_credits(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, paid: int
) -> None:
    """All of what was sold; where the code leaves nothing to pay, Stripe makes no payment."""
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.buy_pack(user)
    fake_stripe.enter_code(checkout.provider_checkout_id or "", off=500 - paid)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    for _ in range(2):
        await deliver_all(stripe_stack, fake_stripe)
        fake_stripe.emit("checkout.session.completed", fake_stripe.objects[checkout.provider_checkout_id or ""])
    assert await stripe_stack.balance(user) == 100
    row = only(await stripe_stack.payments(user), "credits")
    assert (row.status, row.amount, row.credits_awarded) == ("completed", Decimal(paid) / 100, 100)


async def test_free_pack_that_nobody_completed_gives_nothing(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.buy_pack(user)
    session_id = checkout.provider_checkout_id or ""
    fake_stripe.enter_code(session_id, off=500)
    for status in ("open", "expired"):
        fake_stripe.objects[session_id].update(status=status, payment_status="no_payment_required")
        fake_stripe.emit("checkout.session.expired", fake_stripe.objects[session_id])
        await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.balance(user), await stripe_stack.payments(user)) == (0, ())


async def test_plan_paid_with_a_promotion_code_gives_its_credits(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.subscribe(user)
    fake_stripe.enter_code(checkout.provider_checkout_id or "", off=2999)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.balance, state.payments) == ("active", 1000, ())


@pytest.mark.parametrize(
    ("requested", "status", "leads_to"),
    [
        (None, 200, "https://app.test/account"),
        ("https://app.test/settings?tab=billing", 200, "https://app.test/settings?tab=billing"),
        ("https://shop.test/plans", 200, "https://shop.test/plans"),
        ("https://evil.test/account", 422, None),
        ("https://app.test.evil.test/account", 422, None),
        ("//app.test/account", 422, None),
        ("javascript:alert(1)", 422, None),
    ],
)
async def test_portal_leads_back_to_a_page_of_a_configured_site(
    stripe_stack: PaymentStack, requested: str | None, status: int, leads_to: str | None
) -> None:
    service = replace(
        stripe_stack.checkout_service,
        success_url="https://app.test/paid",
        cancel_url="https://shop.test/plans",
        portal_return_url="https://app.test/account",
    )
    stack = replace(stripe_stack, checkout_service=service, app=account_app(stripe_stack.database, service))
    user = await stack.create_user()
    async with await stack.client_for(user) as client:
        answer = await client.post("/me/billing/portal", json={"return_url": requested})
    assert answer.status_code == status, answer.text
    if leads_to is not None:
        assert answer.json()["url"] == f"https://portal.test?to={leads_to}"


async def test_customer_has_stripe_asked_at_a_pace_and_others_are_served(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Stripe answers so many requests a second for all customers together."""
    eager, other = await stripe_stack.create_user(), await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, eager)
    begun = await stripe_stack.buy_pack(eager)
    async with await stripe_stack.client_for(eager) as client:
        subscription_id = (await client.get("/subscriptions/me")).json()["id"]
        for _ in range(PROVIDER_CALLS_OF_ACCOUNT.burst):
            _provider_calls.take(eager.id)
        asked = len(fake_stripe.requests)
        for method, path, body in (
            ("POST", "/me/credits/checkout", {"pack": PACK.id}),
            ("POST", f"/me/checkout/{begun.id}/confirm", None),
            ("POST", "/me/billing/portal", None),
            ("POST", f"/subscriptions/{subscription_id}/change", {"plan_id": "pro"}),
            ("DELETE", f"/subscriptions/{subscription_id}", None),
        ):
            refused = await client.request(method, path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited"), path
            assert int(refused.headers["retry-after"]) >= 1
    assert len(fake_stripe.requests) == asked
    assert (await stripe_stack.subscribe(other)).url
