"""Markets of one test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.ledger.db.session import Database
from gateway.payments.stripe.adapter import Stripe
from tests.payments.fake_stripe import FakeStripe
from tests.payments.market import Market, market

STRIPE_SECRETS = ("whsec_new", "whsec_old")
PRICES = {"price_basic": 999, "price_pro": 2999, "price_pack": 500}


@pytest.fixture
async def selling_database(own_database_url: str) -> AsyncIterator[Database]:
    database = Database(own_database_url)
    yield database
    await database.close()


@pytest.fixture
def stripe_world() -> FakeStripe:
    return FakeStripe(PRICES)


@pytest.fixture
async def stripe_market(selling_database: Database, stripe_world: FakeStripe) -> AsyncIterator[Market]:
    provider = stripe_provider(stripe_world)
    async with market(selling_database, provider) as made:
        yield made
    await provider.close()


def stripe_provider(world: FakeStripe) -> Stripe:
    provider = Stripe("sk_test_x", api_base="http://stripe.test", webhook_secrets=STRIPE_SECRETS)
    # The SDK opens its own connections; here they lead into this process.
    provider._http._client_async = httpx.AsyncClient(transport=httpx.ASGITransport(world.app))
    return provider
