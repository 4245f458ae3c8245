"""The console in front of an admin API, on the stores of the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from gateway.api.admin import AdminApi
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.web.console.app import build_console
from gateway.workers.outbox import OutboxPublisher
from tests.api.conftest import TOKEN, admin_app, client_of
from tests.web.console.operators import ORIGIN, PORTAL_URL, Api, Browser

# A database of Valkey that no other test uses: its versions are those of one database of PostgreSQL.
_VALKEY_DATABASE = 9


@pytest.fixture(scope="package")
async def admin(new_database_url: Callable[[], Awaitable[str]], redis_url: str) -> AsyncIterator[AdminApi]:
    database = Database(await new_database_url())
    redis_client = RedisClient(f"{redis_url.rpartition('/')[0]}/{_VALKEY_DATABASE}", timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    publisher = OutboxPublisher(database, Meter(redis_client, partitions=4, owner="admin"))
    app = admin_app(database, publisher.publish_all, missing={}, redis_client=redis_client, portal_url=PORTAL_URL)
    assert isinstance(app, AdminApi)
    yield app
    await redis_client.close()
    await database.close()


@pytest.fixture(scope="package")
async def api(admin: AdminApi) -> AsyncIterator[Api]:
    async with client_of(admin) as client:
        yield Api(client)


@pytest.fixture
async def stranger(admin: AdminApi) -> AsyncIterator[Browser]:
    transport = httpx.ASGITransport(build_console(admin, secret=TOKEN))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Browser(client)


@pytest.fixture
async def root(stranger: Browser) -> Browser:
    """An operator with every scope."""
    await stranger.sign_in(TOKEN)
    return stranger
