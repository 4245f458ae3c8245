"""Checkouts ask for what the configuration says, and the portal leads back to where the customer came from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.payments.stripe.sessions import CheckoutOptions
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, account_app
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


@pytest.mark.parametrize("paid", [400, 595])
async def test_pack_paid_with_a_promotion_code_or_with_tax_gives_its_credits(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, paid: int
) -> None:
    user = await stripe_stack.create_user()
    checkout = await stripe_stack.buy_pack(user)
    fake_stripe.objects[checkout.provider_checkout_id or ""]["_amount"] = paid
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    await deliver_all(stripe_stack, fake_stripe)
    assert await stripe_stack.balance(user) == 100


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
