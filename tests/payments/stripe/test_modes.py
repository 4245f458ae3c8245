"""A gateway with a key of live mode processes no event of test mode, and the other way round."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import text

from gateway.ledger.db.session import Database
from gateway.workers.billing.provider_poller import ProviderPoller
from tests.payments.conftest import PRICES, STRIPE_SECRETS, stripe_provider
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import PaymentStack, payment_stack
from tests.payments.test_provider_poller import poll_fully

KEYS = ("sk_test_x", "rk_live_x")


@asynccontextmanager
async def stack_of(database: Database, fake_stripe: FakeStripe, key: str) -> AsyncIterator[PaymentStack]:
    provider = stripe_provider(fake_stripe, key=key)
    async with payment_stack(database, provider) as stack:
        yield stack
    await provider.close()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("is_live", [True, False])
async def test_events_of_the_mode_of_the_key_are_processed(
    payments_database: Database, key: str, is_live: bool
) -> None:
    """The checkout was made with a key of the mode of Stripe's objects; then the key was replaced."""
    fake_stripe = FakeStripe(PRICES, is_live=is_live)
    async with stack_of(payments_database, fake_stripe, "sk_live_x" if is_live else "sk_test_x") as stack:
        user = await stack.create_user()
        checkout = await stack.subscribe(user)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    fake_stripe.renew(fake_stripe.objects[checkout.provider_checkout_id or ""]["subscription"])
    async with stack_of(payments_database, fake_stripe, key) as stack:
        before = len(fake_stripe.requests)
        for event in fake_stripe.new_events():
            await stack.deliver(*signed(event, STRIPE_SECRETS[0]))
        await stack.process_all()
        state, reasons = await stack.billing_state(user), await stack.event_reasons("ignored")
        if ("live" in key) == is_live:
            assert (state.status, state.granted, reasons) == ("active", 2000, [])
        else:
            assert (state.status, state.granted, state.payments) == ("incomplete", 0, ())
            mode = "live" if is_live else "test"
            assert set(reasons) == {f"of {mode} mode, and this gateway's key is not"}
            assert len(fake_stripe.requests) == before


async def test_events_of_the_other_mode_stay_without_effect_when_they_are_replayed_and_polled(
    payments_database: Database,
) -> None:
    fake_stripe = FakeStripe(PRICES)
    async with stack_of(payments_database, fake_stripe, "sk_test_x") as stack:
        user = await stack.create_user()
        checkout = await stack.subscribe(user)
    fake_stripe.pay_checkout(checkout.provider_checkout_id or "")
    async with stack_of(payments_database, fake_stripe, "sk_live_x") as stack:
        for event in fake_stripe.new_events():
            await stack.deliver(*signed(event, STRIPE_SECRETS[0]))
        async with payments_database.transaction() as connection:
            await connection.execute(text("UPDATE webhook_events SET status = 'received', next_attempt_at = now()"))
        await stack.process_all()
        await poll_fully(ProviderPoller(payments_database, stack.provider, interval=timedelta(minutes=15)))
        assert (await stack.billing_state(user)).granted == 0
        assert not await stack.event_reasons("failed")
        assert len(await stack.event_reasons("ignored")) == len(fake_stripe.events)
