"""Open holds, and the beats by which we know that whoever opened them is still there to settle them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.meter.client.client import RedisClient
from gateway.meter.keys import partition_keys

# Five beats may be lost before an owner counts as gone, and holds are given back well within 30 s of a crash.
HEARTBEAT_SECONDS = 3
HEARTBEAT_TTL_SECONDS = 15
SCAN_COUNT = 200


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits set aside for a call under way: `owner` is the process that will settle it, `head` its record's head."""

    request_id: str
    amount: int
    owner: str
    head: str


class Holds:
    """The holds of all partitions."""

    def __init__(self, redis_client: RedisClient, partitions: int) -> None:
        self._redis = redis_client
        self._keys = tuple(partition_keys(number).holds for number in range(partitions))

    @property
    def partitions(self) -> int:
        return len(self._keys)

    async def renew_heartbeat(self, owner: str) -> None:
        """Says that `owner` lives; holds for BEAT_LIFETIME_SECONDS. To be called before its first admission."""
        await self._redis.call((b"SET", _beat_key(owner), 1, b"EX", HEARTBEAT_TTL_SECONDS))

    async def live_owners(self, owners: Collection[str]) -> frozenset[str]:
        """Those of `owners` that have beaten lately."""
        asked = list(owners)
        beaten = await self._redis.pipeline([(b"EXISTS", _beat_key(owner)) for owner in asked])
        return frozenset(owner for owner, is_alive in zip(asked, beaten, strict=True) if is_alive)

    async def open(self, partition: int, cursor: int = 0) -> tuple[int, tuple[Hold, ...]]:
        """Some of a partition's holds, and the cursor of the next ones: 0 after the last.

        A hold that is there throughout is given at least once, as HSCAN promises.
        """
        following, fields = await self._redis.call((b"HSCAN", self._keys[partition], cursor, b"COUNT", SCAN_COUNT))
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return int(following), tuple(_hold(request_id, value) for request_id, value in pairs)

    async def count(self) -> int:
        """Calls admitted and not settled."""
        return sum(await self._redis.pipeline([(b"HLEN", key) for key in self._keys]))


def _beat_key(owner: str) -> str:
    return f"gw:i:{owner}"


def _hold(request_id: bytes, value: bytes) -> Hold:
    amount, owner, head = value.decode().split("\t", 2)
    return Hold(request_id.decode(), int(amount), owner, head)
