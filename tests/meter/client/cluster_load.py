"""Callers of a cluster that count, so that what was lost, repeated or delayed shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.scripts import SCRIPTS, Script
from tests.guarantees.faults.cluster import ClusterServers
from tests.support.polling import eventually

TIMEOUT_SECONDS = 1.0  # so long that a busy machine does not double it
COUNT = Script("redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])")


@asynccontextmanager
async def opened(cluster: ClusterServers, timeout_seconds: float) -> AsyncIterator[RedisClient]:
    redis_client = RedisClient(cluster.url, timeout_seconds=timeout_seconds, scripts=SCRIPTS)
    await redis_client.open()
    yield redis_client
    await redis_client.close()


def tagged(tag: object, name: str = "x") -> bytes:
    return f"gw:{{{tag}}}:{name}".encode()


class Load:
    """Callers that count in two keys of one slot until they are stopped; the counters must equal the replies."""

    def __init__(self, redis_client: RedisClient, tag: object, *, callers: int = 4) -> None:
        self._redis = redis_client
        self.keys = (tagged(tag, "one"), tagged(tag, "two"))
        self.certain = self.unknown = self.refused = 0
        self.longest_seconds = 0.0
        self._enough = asyncio.Event()
        self._tasks = [asyncio.create_task(self._call()) for _ in range(callers)]

    async def _call(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._enough.is_set():
            started = loop.time()
            try:
                await self._redis.run(COUNT, self.keys, ())
                self.certain += 1
            except NotSent:
                self.refused += 1
            except MeterUnavailable:
                self.unknown += 1
            ended = loop.time()
            self.longest_seconds = max(self.longest_seconds, ended - started)
            await asyncio.sleep(0.001)

    async def does(self, count: int) -> None:
        """Until so many more calls have succeeded."""
        wanted = self.certain + count
        await eventually(lambda: self.certain >= wanted)

    async def is_refused(self) -> None:
        refused = self.refused
        await eventually(lambda: self.refused > refused)

    async def is_counted(self) -> None:
        """Ends, and compares: what was answered has run once, what was refused has not."""
        self._enough.set()
        await asyncio.gather(*self._tasks)
        one, two = [int(each) for each in await self._redis.pipeline([(b"GET", key) for key in self.keys])]
        assert one == two
        assert self.certain <= one <= self.certain + self.unknown
