"""Payment stacks with a fake Stripe or Lemon Squeezy, each for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from gateway.embedded.stores import Stores
from gateway.ledger.db.session import Database
from gateway.payments.lemon_squeezy.adapter import LemonSqueezy
from gateway.payments.stripe.adapter import Stripe
from tests.payments.fake_lemon_squeezy import STORE_ID, FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack, create_plans, payment_stack
from tests.support import databases

STRIPE_SECRETS = ("whsec_new", "whsec_old")
LEMON_SQUEEZY_SECRETS = ("new-secret", "old-secret")
PRICES = {"price_basic": 999, "price_pro": 2999, "price_pack": 500}


@pytest.fixture(scope="session")
async def template_with_plans(new_database_url: Callable[[], Awaitable[str]]) -> str:
    """The name of a migrated database with the plans of `payment_stack`, which most tests here begin with."""
    url = await new_database_url()
    database = Database(url)
    await create_plans(database)
    await database.close()
    return url.rpartition("/")[2]


@pytest.fixture
async def own_database_url(stores: Stores, template_with_plans: str) -> AsyncIterator[str]:
    url = await databases.create(stores.database_url, template_with_plans)
    yield url
    await databases.remove(url)


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
    async with payment_stack(payments_database, provider) as stack:
        yield stack
    await provider.close()


def stripe_provider(fake_stripe: FakeStripe, *, key: str = "sk_test_x") -> Stripe:
    provider = Stripe(key, api_base="http://stripe.test", webhook_secrets=STRIPE_SECRETS)
    # The SDK opens its own connections; here they lead into this process.
    provider._http._client_async = httpx.AsyncClient(transport=httpx.ASGITransport(fake_stripe.app))
    return provider


@pytest.fixture
def fake_lemon_squeezy() -> FakeLemonSqueezy:
    return FakeLemonSqueezy({"100": 999, "200": 2999, "900": 500})


@pytest.fixture
async def lemon_squeezy_stack(
    payments_database: Database, fake_lemon_squeezy: FakeLemonSqueezy
) -> AsyncIterator[PaymentStack]:
    provider = lemon_squeezy_provider(fake_lemon_squeezy)
    async with payment_stack(payments_database, provider) as stack:
        yield stack
    await provider.close()


def lemon_squeezy_provider(fake_lemon_squeezy: FakeLemonSqueezy) -> LemonSqueezy:
    return LemonSqueezy(
        "key",
        api_base="http://lemon.test",
        store_id=str(STORE_ID),
        is_test=True,
        webhook_secrets=LEMON_SQUEEZY_SECRETS,
        transport=httpx.ASGITransport(fake_lemon_squeezy.app),
    )
