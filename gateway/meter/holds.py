"""Open holds, and the heartbeats of the processes that will settle them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.meter.client.client import RedisClient
from gateway.meter.keys import heartbeat_key, partition_keys
from gateway.meter.layout import HoldLine

# An owner may miss five heartbeats before it counts as gone, and holds are released well within 30 s of a crash.
HEARTBEAT_SECONDS = 3
HEARTBEAT_TTL_SECONDS = 15
SCAN_COUNT = 200


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits set aside for a call under way. `owner` is the process that will settle it."""

    request_id: str
    amount: int
    owner: str
    prefix: str


class Holds:
    """The holds of all partitions."""

    def __init__(self, redis_client: RedisClient, partitions: int) -> None:
        self._redis = redis_client
        self._keys = tuple(partition_keys(number).holds for number in range(partitions))

    @property
    def partitions(self) -> int:
        return len(self._keys)

    async def renew_heartbeat(self, owner: str) -> None:
        """Keeps `owner` alive for HEARTBEAT_TTL_SECONDS. Call it before the first admission."""
        await self._redis.call((b"SET", heartbeat_key(owner), 1, b"EX", HEARTBEAT_TTL_SECONDS))

    async def live_owners(self, owners: Collection[str]) -> frozenset[str]:
        """Those of `owners` whose heartbeat has not expired."""
        asked = list(owners)
        found = await self._redis.pipeline([(b"EXISTS", heartbeat_key(owner)) for owner in asked])
        return frozenset(owner for owner, is_alive in zip(asked, found, strict=True) if is_alive)

    async def scan(self, partition: int, cursor: int = 0) -> tuple[int, tuple[Hold, ...]]:
        """Some holds of a partition, and the cursor of the next ones: 0 after the last.

        A hold that is open throughout the scan comes at least once, as HSCAN promises.
        """
        following, fields = await self._redis.call((b"HSCAN", self._keys[partition], cursor, b"COUNT", SCAN_COUNT))
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return int(following), tuple(Hold(request_id.decode(), *HoldLine.unpack(line)) for request_id, line in pairs)

    async def count(self) -> int:
        """Calls admitted and not settled."""
        return sum(await self._redis.pipeline([(b"HLEN", key) for key in self._keys]))
