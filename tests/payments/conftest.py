"""Stacks of one test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.ledger.db.session import Database
from gateway.payments.stripe.adapter import Stripe
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, payment_stack

STRIPE_SECRETS = ("whsec_new", "whsec_old")
PRICES = {"price_basic": 999, "price_pro": 2999, "price_pack": 500}


@pytest.fixture
async def payments_database(own_database_url: str) -> AsyncIterator[Database]:
    database = Database(own_database_url)
    yield database
    await database.close()


@pytest.fixture
def fake_stripe() -> FakeStripe:
    return FakeStripe(PRICES)


@pytest.fixture
async def stripe_stack(payments_database: Database, fake_stripe: FakeStripe) -> AsyncIterator[PaymentStack]:
    provider = stripe_provider(fake_stripe)
    async with payment_stack(payments_database, provider) as made:
        yield made
    await provider.close()


def stripe_provider(world: FakeStripe) -> Stripe:
    provider = Stripe("sk_test_x", api_base="http://stripe.test", webhook_secrets=STRIPE_SECRETS)
    # The SDK opens its own connections; here they lead into this process.
    provider._http._client_async = httpx.AsyncClient(transport=httpx.ASGITransport(world.app))
    return provider
