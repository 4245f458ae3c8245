"""A Valkey for the tests that break its server, so that nobody else's is broken; and how long a fuzzing run is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from gateway.embedded.endpoints import Endpoint, choose
from gateway.embedded.valkey import Valkey
from gateway.meter.client.client import RedisClient
from gateway.meter.scripts import SCRIPTS
from tests.guarantees.faults import cluster as clusters
from tests.guarantees.faults.cluster import ClusterServers
from tests.guarantees.faults.proxy import FaultProxy
from tests.support.steady_clock import steady_clock

# pytest tests/meter --hypothesis-profile=fuzz
settings.register_profile("fuzz", max_examples=20_000, deadline=None)


@dataclass(frozen=True)
class OwnServer:
    """A server that a test may reconfigure; `admin` reaches it directly, not by way of any proxy."""

    endpoint: Endpoint
    admin: Redis

    @property
    def url(self) -> str:
        return f"redis://:{self.endpoint.password}@127.0.0.1:{self.endpoint.port}/0"


@pytest.fixture(scope="package", autouse=True)
async def _time_stands_still_with_the_machine() -> AsyncIterator[None]:
    """The links and the proxies before their servers live on the loop of these tests."""
    with steady_clock():
        yield


@pytest.fixture(scope="package")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnServer]:
    endpoint = choose(None).valkey
    valkey = Valkey(tmp_path_factory.mktemp("valkey"), durable=False)
    await valkey.start(endpoint)
    async with Redis(port=endpoint.port, password=endpoint.password) as admin:
        yield OwnServer(endpoint, admin)
    await valkey.stop()


@pytest.fixture
async def proxy(server: OwnServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", server.endpoint.port) as proxy:
        yield proxy


@pytest.fixture
async def redis_client(server: OwnServer, proxy: FaultProxy) -> AsyncIterator[RedisClient]:
    """A client with a long timeout, by way of the proxy; a test shortens it by `short_redis_timeout`."""
    redis_client = RedisClient(proxy.through(server.url), timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    yield redis_client
    await redis_client.close()


@pytest.fixture(scope="package")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClusterServers]:
    """Three masters and a replica of each, which a test may fail over and must leave whole."""
    async with clusters.running(tmp_path_factory.mktemp("cluster"), replicas=3) as running:
        yield running
