"""A master of a Redis Cluster is killed or frozen: its replica serves its keys; no call is lost, repeated or held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from gateway.meter.client.client import RedisClient
from tests.guarantees.faults.cluster import ClusterServers, until_master
from tests.meter.client.cluster_load import TIMEOUT_SECONDS, Load, opened, tagged
from tests.support.polling import eventually
from tests.support.sampling import scaled
from tests.support.steady_clock import steady_clock

BACK_WITHIN_SECONDS = scaled(suite=10, full=5)  # the suite shares its machine


@pytest.fixture(autouse=True)
async def _time_stands_still_with_the_machine() -> AsyncIterator[None]:
    with steady_clock():
        yield


@pytest.fixture
async def hasty(cluster: ClusterServers) -> AsyncIterator[RedisClient]:
    async with opened(cluster, timeout_seconds=TIMEOUT_SECONDS) as redis_client:
        yield redis_client


@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_dead_master_is_replaced_in_seconds_and_delays_no_call_twice(
    hasty: RedisClient, cluster: ClusterServers, end: str
) -> None:
    load = Load(hasty, uuid4())
    await load.does(20)
    master = await cluster.owner(load.keys[0])
    replica = await cluster.replica_of(master)
    loop = asyncio.get_running_loop()
    ended_at = loop.time()
    getattr(master, end)()
    await load.is_refused()
    await until_master(replica)
    await load.does(20)
    took_seconds = loop.time() - ended_at
    await load.is_counted()
    master.thaw() if end == "freeze" else master.start()
    await cluster.settled()
    assert took_seconds < BACK_WITHIN_SECONDS
    assert load.longest_seconds < 2 * TIMEOUT_SECONDS


async def test_client_opens_without_one_master_and_serves_the_others(cluster: ClusterServers) -> None:
    keys = [tagged(number) for number in range(30)]
    master = await cluster.owner(keys[0])
    replica = await cluster.replica_of(master)
    there = [key for key in keys if await cluster.owner(key) is not master]
    master.kill()
    redis_client = RedisClient(cluster.url, timeout_seconds=5.0)
    await redis_client.open()
    try:
        assert await redis_client.pipeline([(b"SET", key, "x") for key in there]) == [b"OK"] * len(there)
        await until_master(replica)
        await eventually(lambda: redis_client.is_connected)
        await redis_client.pipeline([(b"SET", key, "x") for key in keys])
    finally:
        await redis_client.close()
        master.start()
        await cluster.settled()
