"""How many bytes of responses all accounts together store in a day, counted in Redis for every gateway."""

from __future__ import annotations

import asyncio
import time

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable
from gateway.meter.keys import stored_bytes_key

_BLOCK_BYTES = 1024 * 1024
_DAY_SECONDS = 86_400


class StoredBytes:
    """A process takes its share of the day in blocks, so that it asks Redis once for many responses.

    What is left of its last block when it ends or the day does is stored by nobody.
    """

    def __init__(self, redis_client: RedisClient, limit: int) -> None:
        self._redis = redis_client
        self._limit = limit
        self._day = 0
        self._left = 0
        self._is_used_up = False
        self._lock = asyncio.Lock()

    async def take(self, size: int) -> bool:
        """Whether a response of `size` bytes may still be stored today; not while Redis cannot tell."""
        async with self._lock:
            self._begin_day()
            if self._left < size and not self._is_used_up:
                await self._take_block(max(_BLOCK_BYTES, size))
            if self._left < size:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """What was taken for a response that was not stored after all."""
        self._left += size

    def _begin_day(self) -> None:
        today = int(time.time()) // _DAY_SECONDS
        if today != self._day:
            self._day, self._left, self._is_used_up = today, 0, False

    async def _take_block(self, size: int) -> None:
        key = stored_bytes_key(self._day)
        try:
            taken, _ = await self._redis.pipeline(((b"INCRBY", key, size), (b"EXPIRE", key, 2 * _DAY_SECONDS)))
        except (MeterUnavailable, MeterError):
            return
        over = max(0, taken - self._limit)
        self._is_used_up = over > 0
        self._left += max(0, size - over)
