"""Two data planes of one configuration, one before each parser, and one account that may call both without limit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.config import load
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.scripts import SCRIPTS
from tests.guarantees.fuzz.parsers import ByH11, ByHttptools, Notes, reading
from tests.proxy import data_plane as data_planes
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.upstream import ScriptedUpstream

ENVIRON = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
GRANTED = 10_000_000


@dataclass(frozen=True)
class Way:
    """A data plane and the notes of the parser behind it."""

    data_plane: DataPlane
    notes: Notes


@dataclass(frozen=True, repr=False)
class Planes:
    h11: Way
    httptools: Way
    account: Account


@pytest.fixture(scope="package")
async def ways(new_database_url: Callable[[], Awaitable[str]], redis_url: str, redis: Redis) -> AsyncIterator[Planes]:
    url = await new_database_url()
    database = Database(url)
    await redis.flushdb()  # what other tests' databases have left there would be noticed
    redis_client = RedisClient(redis_url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    async with AsyncExitStack() as stack:
        made = []
        for protocol in (ByH11, ByHttptools):
            notes = await stack.enter_async_context(reading(protocol))
            places = {"database.url": url, "redis.url": redis_url, "upstreams.main.targets": notes.url}
            config = load(Path(__file__).parent / "gateway.yaml", ENVIRON, overrides=places)
            running = data_planes.running(
                config, ScriptedUpstream(), database=database, redis=redis, redis_client=redis_client
            )
            made.append(Way(await stack.enter_async_context(running), notes))
        by_h11, by_httptools = made
        yield Planes(by_h11, by_httptools, await by_h11.data_plane.create_account(credits=GRANTED))
    await redis_client.close()
    await database.close()
