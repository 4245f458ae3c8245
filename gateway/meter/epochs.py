"""Which epoch each partition is in. An epoch lasts as long as one run of one server keeps its data.

A restart, a failover, a restored copy and a flush all look alike: what Redis has may be older than what it has replied.
So a new epoch uses none of the accounts that Redis has. It loads each account from PostgreSQL, the journal and the
holds; and before it loads any, every gateway replays the calls that it knows of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import Any, NamedTuple, Protocol

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.keys import PartitionKeys
from gateway.meter.layout import EPOCH_FIELD, TRIMMED_FIELD
from gateway.meter.replay_buffer import id_after
from gateway.meter.replies import EpochResult
from gateway.meter.scripts import ENTER_EPOCH

# How long a new epoch loads nothing: twice as long as a gateway takes to notice it, and to replay what it knows.
REPLAY_WINDOW_SECONDS = 1.5


class EpochStart(NamedTuple):
    """What PostgreSQL says of a partition when an epoch begins: its number, and what Redis must not fall behind.

    `last_id` is the last journal entry that PostgreSQL has.
    """

    number: int
    catalogue_version: int
    last_id: str


class EpochRegister(Protocol):
    """Counts epochs."""

    async def begin(self, partition: int) -> EpochStart:
        """Counts one more. Raises NotSent if that is impossible now."""
        ...


class LocalEpochRegister:
    """For a Redis that nobody else uses, and for processes that admit nothing: every epoch is the first."""

    async def begin(self, partition: int) -> EpochStart:  # noqa: ARG002 - as EpochRegister says
        return EpochStart(1, 0, "0-0")


class _Entered(NamedTuple):
    epoch: str
    connection: object | None


class Epochs:
    """The epochs that this process has entered. Calls `replay` for each that follows another, before entering it."""

    def __init__(
        self,
        redis_client: RedisClient,
        keys: Sequence[PartitionKeys],
        *,
        register: EpochRegister,
        replay: Callable[[int, str], Awaitable[None]],
    ) -> None:
        self._redis = redis_client
        self._keys = keys
        self._register = register
        self._replay = replay
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
        """The epoch of the partition; begins one if there is none. Raises MeterUnavailable."""
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
        """Redis says that the partition is in another epoch."""
        entered = self._entered.get(partition)
        if entered is not None and entered.epoch == epoch:
            self._entered[partition] = _Entered(epoch, object())  # no connection, so it is not current

    async def check(self, on_trimmed: Callable[[int, str], None]) -> int:
        """Checks the partitions in use: enters new epochs, and reports to which entry PostgreSQL has each journal.

        Gives how many epochs were entered. Raises MeterUnavailable.
        """
        partitions = list(self._entered)
        found = await self._redis.pipeline(
            [(b"HMGET", self._keys[partition].catalogue, EPOCH_FIELD, TRIMMED_FIELD) for partition in partitions]
        )
        changed = []
        for partition, (epoch, last_id) in zip(partitions, found, strict=True):
            if epoch is None or epoch.decode() != self.current(partition):
                changed.append(partition)
            elif last_id is not None:
                on_trimmed(partition, last_id.decode())
        for partition in changed:
            self.mark_ended(partition, self._entered[partition].epoch)
        await asyncio.gather(*(self.enter(partition) for partition in changed))
        return len(changed)

    async def _enter(self, partition: int) -> str:
        keys = self._keys[partition]
        connection = self._redis.connection(keys.catalogue)
        if connection is None:
            raise NotSent("not connected to Redis")
        epoch = await self._find(keys) or await self._begin(partition, keys)
        known = self._entered.get(partition)
        if known is not None and known.epoch != epoch:
            await self._replay(partition, epoch)
        if self._redis.connection(keys.catalogue) is not connection:
            raise MeterUnavailable("the connection to Redis has changed")
        self._entered[partition] = _Entered(epoch, connection)
        return epoch

    async def _find(self, keys: PartitionKeys) -> str | None:
        found = await self._run(keys, EpochStart(0, 0, "0-0"), name="", replay_ms=0)
        return None if found[0] == EpochResult.NONE else str(found[1].decode())

    async def _begin(self, partition: int, keys: PartitionKeys) -> str:
        start = await self._register.begin(partition)
        replay_ms = 0 if start.number == 1 else int(REPLAY_WINDOW_SECONDS * 1000)
        found = await self._run(keys, start, name=f"{start.number}-{token_hex(8)}", replay_ms=replay_ms)
        return str(found[1].decode())

    async def _run(self, keys: PartitionKeys, start: EpochStart, *, name: str, replay_ms: int) -> list[Any]:
        arguments = ENTER_EPOCH.ordered(
            new_epoch=name,
            catalogue_version=start.catalogue_version,
            following_id=id_after(start.last_id),
            replay_ms=replay_ms,
        )
        reply: list[Any] = await self._redis.run(ENTER_EPOCH, (keys.catalogue, keys.journal), arguments)
        return reply

    def _done(self, partition: int, done: asyncio.Task[str]) -> None:
        self._entering.pop(partition, None)
        if not done.cancelled():
            done.exception()  # those who wait for it get it
