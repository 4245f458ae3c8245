"""The bytes of stored responses are bounded over all processes, a day at a time."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.meter.client.client import RedisClient
from gateway.meter.keys import stored_bytes_key
from gateway.meter.stored_bytes import StoredBytes
from tests.guarantees.faults.proxy import FaultProxy
from tests.meter.conftest import OwnServer
from tests.support.polling import eventually
from tests.support.redis_timeouts import short_redis_timeout

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
async def _nothing_is_stored(server: OwnServer) -> None:
    await server.admin.flushall()


async def test_stored_bytes_are_bounded_over_all_processes(redis_client: RedisClient) -> None:
    processes = [StoredBytes(redis_client, 8 * MIB) for _ in range(3)]
    taken = await asyncio.gather(*(processes[each % 3].take(MIB // 4) for each in range(60)))
    assert sum(taken) == 8 * 4


async def test_stored_bytes_are_asked_for_in_blocks(server: OwnServer, redis_client: RedisClient) -> None:
    stored = StoredBytes(redis_client, 8 * MIB)
    assert all([await stored.take(1000) for _ in range(1000)])
    key = stored_bytes_key(int(time.time()) // 86_400)
    assert await server.admin.get(key.decode()) == str(MIB).encode()
    assert 86_400 < await server.admin.ttl(key.decode()) <= 2 * 86_400


async def test_stored_bytes_that_are_given_back_are_taken_again(redis_client: RedisClient) -> None:
    stored = StoredBytes(redis_client, 3000)
    assert await stored.take(3000)
    assert not await stored.take(1)
    stored.give_back(3000)
    assert await stored.take(3000)


async def test_stored_bytes_begin_again_with_the_day(
    redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = StoredBytes(redis_client, 3000)
    assert await stored.take(3000)
    tomorrow = time.time() + 86_400
    monkeypatch.setattr("gateway.meter.stored_bytes.time.time", lambda: tomorrow)
    assert await stored.take(3000)


async def test_nothing_is_stored_while_redis_cannot_tell(redis_client: RedisClient, proxy: FaultProxy) -> None:
    stored = StoredBytes(redis_client, 8 * MIB)
    proxy.freeze()
    with short_redis_timeout(redis_client):
        assert not await stored.take(1)
    proxy.thaw()
    await eventually(lambda: redis_client.is_connected)
    assert await stored.take(1)
