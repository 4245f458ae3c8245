"""Events and objects of Stripe mean the same in every API version, from acacia (2025-02-24) on."""

from __future__ import annotations

import pytest

from gateway.ledger.accounts.users import User
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.stripe.fake.versions import ACACIA, BASIL, CLOVER, ENDIVE
from tests.payments.stripe.test_scheduled_changes import ask
from tests.payments.test_stripe_lifecycle import deliver_all, subscribe_and_pay


async def lived(stack: PaymentStack, fake_stripe: FakeStripe) -> User:
    """Bought, upgraded, renewed, refunded in part, and at last not paid."""
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user, plan="basic")
    first = only(await stack.payments(user), "subscription").provider_payment_id or ""
    assert (await ask(stack, user, "change", plan_id="pro")).status_code == 200
    await deliver_all(stack, fake_stripe)
    fake_stripe.charge_renewal(fake_stripe.begin_renewal(subscription_id))
    await deliver_all(stack, fake_stripe)
    fake_stripe.refund(first, 333)
    fake_stripe.dispute(fake_stripe.objects[subscription_id]["latest_invoice"])
    await deliver_all(stack, fake_stripe)
    fake_stripe.renew(subscription_id, succeeds=False)
    await deliver_all(stack, fake_stripe)
    return user


@pytest.mark.parametrize(
    ("events", "answers"),
    [(CLOVER, None), (BASIL, BASIL), (ACACIA, ACACIA)],
)
async def test_life_is_the_same_in_every_version(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, events: str, answers: str | None
) -> None:
    fake_stripe.events_version, fake_stripe.answers_version = events, answers
    user = await lived(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.plan_id) == ("past_due", "pro")
    assert sorted(row[:4] for row in state.payments) == [
        ("dispute", "disputed", "29.99", "0"),
        ("refund", "completed", "3.33", "0"),
        ("subscription", "completed", "20.00", "0"),
        ("subscription", "disputed", "29.99", "0"),
        ("subscription", "failed", "29.99", "0"),
        ("subscription", "partially_refunded", "9.99", "3.33"),
    ]
    assert sorted(row[4:] for row in state.payments if row[4])[0] == (100, 33)
    assert 2000 - 10 <= state.granted <= 2000  # the upgrade comes at the beginning of the period
    assert not await stripe_stack.event_reasons("failed")


def test_versions_differ_in_what_the_gateway_reads(fake_stripe: FakeStripe) -> None:
    """Else the test above would compare equal things."""
    customer = fake_stripe.new("cus", "customer", email="ada@example.com")
    session = {"customer": customer["id"], "_price": "price_pro", "_quantity": 1, "_tagged": {}, "id": "cs", "_off": 0}
    shapes = {}
    for version in (ENDIVE, BASIL, ACACIA):
        fake_stripe.events_version = version
        fake_stripe._begin(session, {})
        about = {event["type"]: event["data"]["object"] for event in fake_stripe.new_events()}
        subscription, invoice = about["customer.subscription.created"], about["invoice.paid"]
        shapes[version] = (
            "current_period_end" in subscription["items"]["data"][0],
            "current_period_end" in subscription,
            "parent" in invoice,
            bool(invoice.get("subscription") and invoice.get("payment_intent")),
            "billing_mode" in subscription,
        )
    assert shapes == {
        ENDIVE: (True, False, True, False, True),
        BASIL: (True, False, True, False, False),
        ACACIA: (False, True, False, True, False),
    }
