"""What a plan is offered at and what its provider charges are compared, and a difference is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from gateway import metrics
from gateway.clock import now
from gateway.payments.lemon_squeezy import objects as lemon_squeezy_objects
from gateway.payments.stripe import objects as stripe_objects
from gateway.workers.billing.price_checks import PriceCheckWorker
from policies.billing.invoicing import PriceTier
from policies.billing.price_checks import OfferedPrice, PriceDifference, RemotePrice, differences
from tests.api.conftest import admin_app, client_of
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PACK, PaymentStack

MONTH = ("month", 1)
OFFERED = OfferedPrice(Decimal("9.99"), "USD", MONTH)
CHARGED = RemotePrice(Decimal("9.99"), "USD", MONTH)
TIERS = (PriceTier(10, Decimal("0.10")), PriceTier(None, Decimal("0.05"), Decimal(3)))
TIERED = OfferedPrice(Decimal(0), "USD", MONTH, "tiered", TIERS, "graduated")


@pytest.mark.parametrize(
    ("offered", "charged", "fields"),
    [
        (OFFERED, CHARGED, []),
        (OFFERED, replace(CHARGED, amount=Decimal("9.990"), currency=None), []),
        (OFFERED, None, ["price_id"]),
        (OFFERED, replace(CHARGED, amount=Decimal("12.99")), ["price"]),
        (OFFERED, replace(CHARGED, currency="EUR", amount=None), ["currency"]),
        (OFFERED, replace(CHARGED, interval=("year", 1)), ["interval"]),
        (OFFERED, replace(CHARGED, interval=None, is_active=False), ["is_active", "interval"]),
        (OFFERED, replace(CHARGED, is_metered=True), ["usage"]),
        (replace(OFFERED, pricing_model="usage"), replace(CHARGED, amount=Decimal("0.01"), is_metered=True), []),
        (replace(OFFERED, pricing_model="usage"), CHARGED, ["usage"]),
        (replace(OFFERED, pricing_model="volume"), replace(CHARGED, amount=None), []),
        (TIERED, replace(CHARGED, amount=None), []),
        (TIERED, replace(CHARGED, amount=None, tiers=TIERS, tiers_mode="graduated"), []),
        (TIERED, replace(CHARGED, amount=None, tiers=TIERS[::-1], tiers_mode="graduated"), []),
        (TIERED, replace(CHARGED, amount=None, tiers=TIERS, tiers_mode="volume"), ["tiers"]),
        (TIERED, replace(CHARGED, amount=None, tiers=TIERS[1:], tiers_mode="graduated"), ["tiers"]),
        (TIERED, replace(CHARGED, tiers=()), ["tiers"]),
        (OFFERED, replace(CHARGED, amount=None, tiers=TIERS, tiers_mode="volume"), ["tiers"]),
        (replace(OFFERED, interval=None), replace(CHARGED, interval=None), []),
    ],
)
def test_difference_is_told_by_field(offered: OfferedPrice, charged: RemotePrice | None, fields: list[str]) -> None:
    assert [each.field for each in differences(offered, charged)] == fields


def test_difference_tells_both_sides() -> None:
    (found,) = differences(OFFERED, replace(CHARGED, amount=Decimal("12.99")))
    assert found == PriceDifference("price", "9.99", "12.99")
    (found,) = differences(TIERED, replace(CHARGED, tiers=()))
    assert found == PriceDifference("tiers", "graduated: 0.1 to 10, 0.05 + 3 beyond", "none")


def test_tiers_of_the_providers_are_read_as_those_of_plans() -> None:
    """Amounts in minor units, perhaps of fractions; https://docs.stripe.com/api/prices/object and Lemon Squeezy's."""
    at_stripe = {
        "currency": "usd",
        "billing_scheme": "tiered",
        "tiers_mode": "graduated",
        "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"},
        "tiers": [
            {"up_to": 10, "unit_amount": 10, "unit_amount_decimal": "10", "flat_amount": None},
            {"up_to": None, "unit_amount": 5, "flat_amount": 300, "flat_amount_decimal": "300"},
        ],
    }
    at_lemon_squeezy = {
        "scheme": "graduated",
        "renewal_interval_unit": "month",
        "renewal_interval_quantity": 1,
        "tiers": [
            {"last_unit": 10, "unit_price": 10, "unit_price_decimal": None, "fixed_fee": 0},
            {"last_unit": "inf", "unit_price": None, "unit_price_decimal": "5.0", "fixed_fee": 300},
        ],
    }
    for charged in (stripe_objects.read_price(at_stripe), lemon_squeezy_objects.read_price(at_lemon_squeezy)):
        assert differences(TIERED, charged) == ()
        (found,) = differences(replace(TIERED, tiers=TIERS[1:]), charged)
        assert found.field == "tiers"
    del at_stripe["tiers"]  # not expanded
    assert differences(replace(TIERED, tiers=TIERS[1:]), stripe_objects.read_price(at_stripe)) == ()


async def test_saved_plan_names_what_the_provider_charges_instead(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    async def publish() -> None:
        return None

    app = admin_app(stripe_stack.database, publish, missing={}, checkout_service=stripe_stack.checkout_service)
    async with client_of(app) as client:
        same = await client.patch("/admin/v1/plans/basic", json={"description": "the same"})
        assert same.status_code == 200, same.text
        assert same.json()["price_differences"] == []
        with capture_logs() as logged:
            saved = await client.patch("/admin/v1/plans/basic", json={"price": "12.99"})
        difference = {"provider": "stripe", "field": "price", "offered": "12.99", "charged": "9.99"}
        assert (saved.status_code, saved.json()["price_differences"]) == (200, [difference])
        assert {"event": "provider_price_differs", "offer": "basic", "log_level": "warning", **difference} in logged
        fake_stripe.down = True
        unknown = await client.patch("/admin/v1/plans/basic", json={"price": "9.99"})
        assert (unknown.status_code, unknown.json()["price_differences"]) == (200, None)


async def test_nightly_comparison_counts_the_differences_of_plans_and_packs(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    providers = {"stripe": stripe_stack.provider}
    time = now()
    worker = PriceCheckWorker(stripe_stack.database, providers, packs=[PACK], now=lambda: time)
    await worker.run_once()
    # The plans renew, the pack is paid once: the fake's price of the pack renews too.
    first = metrics.PRICE_DIFFERENCES.labels("stripe")._value.get()
    fake_stripe.prices["price_pro"] = 1
    await worker.run_once()
    assert metrics.PRICE_DIFFERENCES.labels("stripe")._value.get() == first
    time += timedelta(days=1)
    with capture_logs() as logged:
        await worker.run_once()
    assert metrics.PRICE_DIFFERENCES.labels("stripe")._value.get() == first + 1
    assert any(each.get("offer") == "pro" and each["charged"] == "0.01" for each in logged)
