"""A data plane before AI APIs. Client, gateway and upstream share one loop, as in the tests of the proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.config import load
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.scripts import SCRIPTS
from tests.proxy import data_plane as data_planes
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import DataPlane
from tests.support.steady_clock import steady_clock


@pytest.fixture(scope="package", autouse=True)
async def _time_stands_still_with_the_machine() -> AsyncIterator[None]:
    with steady_clock():
        yield


@pytest.fixture(scope="package")
async def _data_plane(
    new_database_url: Callable[[], Awaitable[str]],
    redis_url: str,
    redis: Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[DataPlane]:
    url = await new_database_url()
    database = Database(url)
    await redis.flushdb()  # what other tests' databases have left there would be noticed
    environ = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
    redis_client = RedisClient(redis_url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    async with upstreams.running() as upstream:
        places: dict[str, object] = {"database.url": url, "redis.url": redis_url}
        places["data_dir"] = str(tmp_path_factory.mktemp("data"))
        places |= {f"upstreams.{name}.targets": upstream.url for name in ("ai", "silent", "brief")}
        config = load(Path(__file__).parent / "gateway.yaml", environ, overrides=places)
        async with data_planes.running(
            config, upstream, database=database, redis=redis, redis_client=redis_client
        ) as data_plane:
            yield data_plane
    await redis_client.close()
    await database.close()


@pytest.fixture
def data_plane(_data_plane: DataPlane) -> DataPlane:
    _data_plane.upstream.reset()
    return _data_plane
