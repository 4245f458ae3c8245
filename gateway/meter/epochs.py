"""Which epoch each partition is in. One lasts as long as one run of one server keeps its data; then a new one begins.

A restart, a failover, a restored copy and a flush all look alike from here: what Redis has may be older than what it
has said. So nothing it has of accounts counts any more. In the new epoch each account is loaded anew, from PostgreSQL,
the journal and the holds; and before anything is loaded, every gateway hands in the calls that it knows of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import NamedTuple, Protocol

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.keys import PartitionKeys
from gateway.meter.replay_buffer import id_after
from gateway.meter.scripts import ENTER

# In a new epoch nothing is loaded for so long: twice as long as a gateway takes to look, and to hand in what it knows.
REPLAY_WINDOW_SECONDS = 1.5


class EpochStart(NamedTuple):
    """What PostgreSQL knows of a partition whose epoch starts: the number of the epoch, and what must not be lost.

    `last_id` is the last journal entry that it has.
    """

    number: int
    catalogue_version: int
    last_id: str


class EpochRegister(Protocol):
    """Where epochs are counted."""

    async def begin(self, partition: int) -> EpochStart:
        """Counts one more. Raises NotSent if it cannot be counted now."""
        ...


class LocalEpochRegister:
    """For a Redis that nobody else uses, or that nothing is admitted by: every epoch is the first."""

    async def begin(self, partition: int) -> EpochStart:  # noqa: ARG002 - as Register says
        return EpochStart(1, 0, "0-0")


class _Entered(NamedTuple):
    epoch: str
    connection: object | None


class Epochs:
    """The epochs that this process has entered. Each that follows is given to `hand_in` before it counts as entered."""

    def __init__(
        self,
        redis_client: RedisClient,
        keys: Sequence[PartitionKeys],
        *,
        register: EpochRegister,
        hand_in: Callable[[int, str], Awaitable[None]],
    ) -> None:
        self._redis = redis_client
        self._keys = keys
        self._register = register
        self._hand_in = hand_in
        self._entered: dict[int, _Entered] = {}
        self._entering: dict[int, asyncio.Task[str]] = {}

    def current(self, partition: int) -> str | None:
        """The epoch of the partition, as far as the present connection to Redis has shown it."""
        entered = self._entered.get(partition)
        if entered is None or self._redis.connection(self._keys[partition].catalogue) is not entered.connection:
            return None
        return entered.epoch

    def has_entered(self, partition: int) -> bool:
        """Whether the partition has been in an epoch that this process has entered."""
        return partition in self._entered

    async def enter(self, partition: int) -> str:
        """The epoch of the partition, begun if there is none. Raises MeterUnavailable."""
        entering = self._entering.get(partition)
        if entering is None:
            entering = asyncio.get_running_loop().create_task(self._enter(partition))
            self._entering[partition] = entering
            entering.add_done_callback(lambda done: self._done(partition, done))
        await asyncio.shield(entering)
        epoch = self.current(partition)
        if epoch is None:
            raise NotSent("the connection to Redis has changed")
        return epoch

    def mark_ended(self, partition: int, epoch: str) -> None:
        """Redis says that it is in another."""
        entered = self._entered.get(partition)
        if entered is not None and entered.epoch == epoch:
            self._entered[partition] = _Entered(epoch, object())  # no connection, so it is not current

    async def check(self, written: Callable[[int, str], None]) -> int:
        """Looks at the partitions in use: enters new epochs, tells how far PostgreSQL has each journal.

        Gives how many were entered. Raises MeterUnavailable.
        """
        partitions = list(self._entered)
        found = await self._redis.pipeline(
            [(b"HMGET", self._keys[partition].catalogue, b"e", b"t") for partition in partitions]
        )
        strange = []
        for partition, (epoch, last_id) in zip(partitions, found, strict=True):
            if epoch is None or epoch.decode() != self.current(partition):
                strange.append(partition)
            elif last_id is not None:
                written(partition, last_id.decode())
        for partition in strange:
            self.mark_ended(partition, self._entered[partition].epoch)
        await asyncio.gather(*(self.enter(partition) for partition in strange))
        return len(strange)

    async def _enter(self, partition: int) -> str:
        keys = self._keys[partition]
        connection = self._redis.connection(keys.catalogue)
        if connection is None:
            raise NotSent("not connected to Redis")
        epoch = await self._find(keys) or await self._begin(partition, keys)
        known = self._entered.get(partition)
        if known is not None and known.epoch != epoch:
            await self._hand_in(partition, epoch)
        if self._redis.connection(keys.catalogue) is not connection:
            raise MeterUnavailable("the connection to Redis has changed")
        self._entered[partition] = _Entered(epoch, connection)
        return epoch

    async def _find(self, keys: PartitionKeys) -> str | None:
        found = await self._redis.run(ENTER, (keys.catalogue, keys.journal), ("", 0, "0-1", 0))
        return found[1].decode() if found[0] else None

    async def _begin(self, partition: int, keys: PartitionKeys) -> str:
        opening = await self._register.begin(partition)
        patience = 0 if opening.number == 1 else int(REPLAY_WINDOW_SECONDS * 1000)
        name = f"{opening.number}-{token_hex(8)}"
        found = await self._redis.run(
            ENTER,
            (keys.catalogue, keys.journal),
            (name, opening.catalogue_version, id_after(opening.last_id), patience),
        )
        return str(found[1].decode())

    def _done(self, partition: int, done: asyncio.Task[str]) -> None:
        self._entering.pop(partition, None)
        if not done.cancelled():
            done.exception()  # whoever waits sees it
