"""Real stores for the whole test session. Tests share them, so each uses ids of its own and wipes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.embedded.stores import Stores


@pytest.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with await Stores.open(tmp_path_factory.mktemp("stores"), durable=False) as running:
        yield running


@pytest.fixture(scope="session")
async def database_url(stores: Stores) -> str:
    """A database of this session's own."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(stores.database_url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await connection.close()
    return f"{stores.database_url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def redis_url(stores: Stores) -> str:
    return stores.redis_url


@pytest.fixture(scope="session")
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client
