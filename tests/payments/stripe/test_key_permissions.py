"""A restricted key that lacks a permission is named at start, with what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.payments.stripe.permissions import NOBODY, PERMISSIONS
from gateway.workers.billing.key_permissions import KeyPermissionWorker
from tests.payments.conftest import lemon_squeezy_provider, stripe_provider
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import deliver_all, subscribe_and_pay

PAGE = Path(__file__).parents[3] / "docs" / "payments.md"


@pytest.mark.parametrize(
    ("forbidden", "missing"),
    [
        (set(), ()),
        ({"events"}, ("Events: read",)),
        ({"refunds", "charges"}, ("Charges and Refunds: write",)),
        ({"subscription_schedules", "billing/meter_events"}, ("Subscription schedules: write", "Meter events: write")),
        ({""}, tuple(f"{each.resource}: {each.access}" for each in PERMISSIONS)),
    ],
)
async def test_restricted_key_is_told_what_it_lacks(
    fake_stripe: FakeStripe, forbidden: set[str], missing: tuple[str, ...]
) -> None:
    fake_stripe.forbidden = forbidden
    provider = stripe_provider(fake_stripe, key="rk_test_x")
    worker = KeyPermissionWorker([provider])
    with capture_logs() as logs:
        for _ in range(2):
            await worker.run_once()
    named = [each["permissions"] for each in logs if each["event"] == "provider_key_lacks_permissions"]
    assert named == ([list(missing)] if missing else [])
    assert not fake_stripe.objects
    assert not fake_stripe.meter_events
    assert len(fake_stripe.requests) == len(PERMISSIONS) * (2 if missing else 1)
    await provider.close()


async def test_key_is_asked_until_it_has_every_permission(fake_stripe: FakeStripe) -> None:
    provider = stripe_provider(fake_stripe, key="rk_test_x")
    worker = KeyPermissionWorker([provider])
    steps: tuple[set[str], ...] = ({"events", "prices"}, {"events"}, set(), set())
    with capture_logs() as logs:
        for forbidden in steps:
            fake_stripe.forbidden = forbidden
            await worker.run_once()
    assert [(each["event"], each.get("permissions")) for each in logs] == [
        ("provider_key_lacks_permissions", ["Prices: read", "Events: read"]),
        ("provider_key_lacks_permissions", ["Events: read"]),
        ("provider_key_has_permissions", None),
    ]
    assert len(fake_stripe.requests) == 3 * len(PERMISSIONS)
    await provider.close()


async def test_unreachable_provider_is_asked_again(fake_stripe: FakeStripe) -> None:
    fake_stripe.key_refused = 401
    provider = stripe_provider(fake_stripe, key="rk_test_x")
    worker = KeyPermissionWorker([provider])
    with capture_logs() as logs:
        await worker.run_once()
        fake_stripe.key_refused, fake_stripe.forbidden = None, {"events"}
        await worker.run_once()
    assert [each["event"] for each in logs] == ["provider_key_unchecked", "provider_key_lacks_permissions"]
    await provider.close()


async def test_keys_that_may_do_everything_are_not_asked(
    fake_stripe: FakeStripe, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    for provider in (stripe_provider(fake_stripe), lemon_squeezy_provider(fake_lemon_squeezy)):
        assert await provider.missing_permissions() == ()
        await provider.close()
    assert not fake_stripe.requests


def test_page_lists_the_permissions() -> None:
    rows = [f"| {each.resource} | {each.access} | {each.purpose} |" for each in PERMISSIONS]
    assert "\n".join(rows) in PAGE.read_text()


async def test_permissions_are_those_of_a_life(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    """No request of a subscriber's life goes to a resource that the list does not have."""
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    fake_stripe.refund(fake_stripe.renew(subscription_id)["id"])
    fake_stripe.dispute(fake_stripe.objects[subscription_id]["latest_invoice"])
    await deliver_all(stripe_stack, fake_stripe)
    listed = {each.path.split(NOBODY)[0].strip("/") for each in PERMISSIONS}
    also = {"charges": "refunds", "invoice_payments": "invoices"}  # which the permission of another resource includes
    asked = {path.removeprefix("/v1/") for _, path in fake_stripe.requests}
    unlisted = {path for path in asked if not any(path.startswith(each) for each in (*listed, *also))}
    assert not unlisted
    assert set(also.values()) <= listed
