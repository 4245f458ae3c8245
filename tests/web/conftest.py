"""The portal on the stores of the session, with a database and a numbered database of Valkey of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from secrets import token_bytes

import httpx
import pytest

from gateway.api.account import account_dependencies
from gateway.api.account.dependencies import AccountDependencies
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher
from policies.billing.money import CreditValue
from tests.api.account.conftest import LIFETIMES, SECRET
from tests.api.account.conftest import ROUTES as API_ROUTES
from tests.web.portal.visitors import PortalStack, build_stack

# Those of the account API's own tests, of plans without features.
ROUTES = {name: replace(API_ROUTES[name], feature=None) for name in ("analyze", "generate")}


@pytest.fixture(scope="package")
async def dependencies(
    new_database_url: Callable[[], Awaitable[str]], redis_url: str
) -> AsyncIterator[AccountDependencies]:
    database = Database(await new_database_url())
    redis_client = RedisClient(f"{redis_url.rpartition('/')[0]}/7", timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    meter = Meter(redis_client, partitions=4, owner="portal")
    yield account_dependencies(
        database=database,
        publish=OutboxPublisher(database, meter).publish_all,
        jwt_secret=SECRET,
        lifetimes=LIFETIMES,
        key_prefix="gw",
        peppers={1: b"pepper"},
        entropy=token_bytes,
        meter=meter,
        routes=ROUTES,
        past_due_grace=timedelta(days=3),
        credit_value=CreditValue("USD", Decimal(1000)),
    )
    await redis_client.close()
    await database.close()


@pytest.fixture(scope="package")
async def stack(dependencies: AccountDependencies) -> AsyncIterator[PortalStack]:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        yield build_stack(dependencies, client)
