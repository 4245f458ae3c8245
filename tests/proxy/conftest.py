"""One data plane for all tests of this package; each test has fresh upstream connections and accounts of its own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.config import Config, load
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.scripts import SCRIPTS
from gateway.proxy.router import Router
from gateway.runtime.upstreams import destinations
from tests.proxy import data_plane as data_planes
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import DataPlane
from tests.proxy.upstream import ScriptedUpstream
from tests.support.steady_clock import steady_clock

REDIS_DATABASE = 13
Configure = Callable[..., Config]
Serve = Callable[[Config], Awaitable[DataPlane]]


@pytest.fixture(scope="package", autouse=True)
async def _time_stands_still_with_the_machine() -> AsyncIterator[None]:
    """Clients, gateway and upstream share one loop: a stalled machine must not cause their timeouts."""
    with steady_clock():
        yield


# Both stores are the package's own: in a Redis that several databases use, a gateway notices the epochs of others.


@pytest.fixture(scope="package")
async def migrated_url(new_database_url: Callable[[], Awaitable[str]]) -> str:
    return await new_database_url()


@pytest.fixture(scope="package")
async def database(migrated_url: str) -> AsyncIterator[Database]:
    opened = Database(migrated_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="package")
def redis_url(redis_url: str) -> str:
    return f"{redis_url.rpartition('/')[0]}/{REDIS_DATABASE}"


@pytest.fixture(scope="package")
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
        yield client


@pytest.fixture(scope="package")
async def _upstream() -> AsyncIterator[ScriptedUpstream]:
    async with upstreams.running() as upstream:
        yield upstream


@pytest.fixture(scope="package")
def configure(
    migrated_url: str, redis_url: str, _upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Configure:
    """The configuration of these tests, with overrides by dotted key."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    environ = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
    data_dir = str(tmp_path_factory.mktemp("data"))
    places: dict[str, object] = {"database.url": migrated_url, "redis.url": redis_url, "data_dir": data_dir}
    for name in ("main", "plain", "open", "hasty", "drowsy", "narrow", "patient", "nobody"):
        places[f"upstreams.{name}.targets"] = nobody if name == "nobody" else _upstream.url

    def configured(**overrides: object) -> Config:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return load(Path(__file__).parent / "gateway.yaml", environ, overrides=places | dotted)

    return configured


@pytest.fixture(scope="package")
async def redis_client(redis_url: str) -> AsyncIterator[RedisClient]:
    """The tests' own client of Redis."""
    redis_client = RedisClient(redis_url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    yield redis_client
    await redis_client.close()


@pytest.fixture(scope="package")
async def _data_plane(
    configure: Configure, _upstream: ScriptedUpstream, database: Database, redis: Redis, redis_client: RedisClient
) -> AsyncIterator[DataPlane]:
    async with data_planes.running(
        configure(), _upstream, database=database, redis=redis, redis_client=redis_client
    ) as data_plane:
        yield data_plane


@pytest.fixture
async def data_plane(_data_plane: DataPlane) -> DataPlane:
    _data_plane.upstream.reset()
    before = _data_plane.handler.swap(Router(_data_plane.config.routes), destinations(_data_plane.config))
    for destination in before.values():
        await destination.upstream.close()
    return _data_plane


@pytest.fixture
def upstream(data_plane: DataPlane) -> ScriptedUpstream:
    return data_plane.upstream


@pytest.fixture
async def serve(
    _upstream: ScriptedUpstream, database: Database, redis: Redis, redis_client: RedisClient
) -> AsyncIterator[Serve]:
    """Serves another data plane, of another configuration, until the end of the test."""
    _upstream.reset()
    async with AsyncExitStack() as stack:

        async def served(config: Config) -> DataPlane:
            running = data_planes.running(config, _upstream, database=database, redis=redis, redis_client=redis_client)
            return await stack.enter_async_context(running)

        yield served
