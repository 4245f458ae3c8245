"""Which epoch each partition is in. It lasts as long as one run of one server keeps its data, and PostgreSQL its own.

A restart, a failover, a restored copy and a flush all look alike: what Redis has may be older than what it has replied.
So a new epoch uses none of the accounts that Redis has. It loads each account from PostgreSQL, the journal and the
holds; and before it loads any, every gateway replays the calls that it knows of.

Both stores have the name of the epoch. A server that was left and is returned to has another one than PostgreSQL; a
PostgreSQL that was restored or failed over lacks what Redis was told of (`policies/usage/epochs.py`). Either ends the
epoch. One process at a time begins epochs, under a lock in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from secrets import token_hex
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog

from gateway import metrics
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable, NotSent
from gateway.meter.client.packing import Command
from gateway.meter.keys import PartitionKeys
from gateway.meter.layout import EPOCH_FIELD, OPENS_AT_FIELD, PUBLISHED_FIELD, TRIMMED_FIELD, VERSION_FIELD
from gateway.meter.replay_buffer import id_after
from gateway.meter.replies import EpochResult
from gateway.meter.scripts import ENTER_EPOCH
from policies.usage.epochs import (
    Agreement,
    PostgresqlMarks,
    RedisMarks,
    compare,
    lost_by_postgresql,
    next_number,
    number_of,
)

# How long a new epoch loads nothing: twice as long as a gateway takes to notice it, and to replay what it knows.
REPLAY_WINDOW_SECONDS = 1.5

# How long PostgreSQL may take to confirm an epoch. After that a process goes on in the one that it has entered before.
CONFIRM_SECONDS = 0.5

FIRST, REQUESTED = "first", "requested"
_LEVELS = {FIRST: logging.INFO, Agreement.REDIS_BEHIND: logging.ERROR, Agreement.POSTGRESQL_BEHIND: logging.ERROR}
_NOTHING_STORED = PostgresqlMarks(0, "", 0, "0-0", 0)
log = structlog.get_logger(__name__)

Marks = Mapping[int, PostgresqlMarks]
Result = TypeVar("Result")


class LockedRegister(Protocol):
    """The register while this process alone may begin epochs."""

    async def read(self) -> Marks: ...

    async def begin(self, epochs: Mapping[int, str]) -> None: ...


class EpochRegister(Protocol):
    """What PostgreSQL has of the partitions, by number. Raises NotSent while PostgreSQL is out of reach.

    A partition that is missing in `read` is not compared.
    """

    async def read(self, partitions: Sequence[int]) -> Marks: ...

    def lock(self, partitions: Sequence[int]) -> AbstractAsyncContextManager[LockedRegister]: ...


class LocalEpochRegister:
    """For a Redis that nobody else uses, and for processes that admit nothing: every epoch is the first."""

    async def read(self, partitions: Sequence[int] = ()) -> Marks:  # noqa: ARG002 - as EpochRegister says
        return {}

    @asynccontextmanager
    async def lock(self, partitions: Sequence[int]) -> AsyncIterator[LocalEpochRegister]:  # noqa: ARG002 - as it says
        yield self

    async def begin(self, epochs: Mapping[int, str]) -> None: ...


class _Begun(NamedTuple):
    """The epochs that both stores have now, and why some of them have begun, by partition."""

    epochs: dict[int, str]
    reasons: dict[int, str]


class _Entered(NamedTuple):
    epoch: str
    connection: object | None


class Epochs:
    """The epochs that this process has entered.

    Before it enters one that follows another, it calls `replay`, and before that `on_changed` with all partitions that
    change.
    """

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
        self.on_changed: Callable[[Collection[int]], None] = lambda _: None
        self._entered: dict[int, _Entered] = {}
        self._failures: dict[int, Exception] = {}
        self._entering: asyncio.Task[None] | None = None
        for reason in (*Agreement, REQUESTED):
            if reason is not Agreement.AGREED:
                metrics.EPOCHS_BEGUN.labels(str(reason))  # shown before the first, so that it is an increase

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
        """The epoch of the partition; begins one if there is none. Enters all other partitions too.

        Raises MeterUnavailable.
        """
        for _ in range(2):  # a task that was under way may have begun before this partition needed it
            if (epoch := self.current(partition)) is not None:
                return epoch
            await self._join()
        if (epoch := self.current(partition)) is not None:
            return epoch
        raise self._failures.get(partition) or NotSent("the connection to Redis has changed")

    async def opens_in(self, partition: int) -> float:
        """How many seconds the partition still loads no account, since its epoch has begun lately."""
        catalogue = self._keys[partition].catalogue
        opens_at, (seconds, microseconds) = await self._redis.pipeline(
            [(b"HGET", catalogue, OPENS_AT_FIELD), (b"TIME",)]
        )
        left = int(opens_at or 0) / 1000 - int(seconds) - int(microseconds) / 1e6
        return left if 0 < left <= 2 * REPLAY_WINDOW_SECONDS else 0.0  # longer: of a clock that was set back

    async def enter_all(self) -> None:
        """Enters what can be entered now."""
        await self._join()

    def mark_ended(self, partition: int, epoch: str) -> None:
        """Redis says that the partition is in another epoch."""
        entered = self._entered.get(partition)
        if entered is not None and entered.epoch == epoch:
            self._entered[partition] = _Entered(epoch, object())  # no connection, so it is not current

    async def check(self, on_trimmed: Callable[[int, str], None]) -> int:
        """Checks the partitions in use: enters new epochs, and reports to which entry PostgreSQL has each journal.

        Gives how many epochs were entered. Raises MeterUnavailable.
        """
        changed = []
        for partition, marks in (await self._read_marks(self._entered)).items():
            if marks.epoch != self.current(partition):
                changed.append(partition)
            else:
                on_trimmed(partition, marks.last_id)
        return await self._enter_again(changed)

    async def compare(self) -> int:
        """Compares both stores; where they disagree, the epoch ends here, and another one begins.

        Gives how many epochs were entered. Raises MeterUnavailable, NotSent while PostgreSQL is out of reach.
        """
        if len(self._entered) < len(self._keys):
            await self._join()
        found = await self._read_marks(self._entered)
        stored = await self._register.read(list(found))
        return await self._enter_again([each for each in found if _disagree(found[each], stored.get(each))])

    async def rebuild(self, partitions: Collection[int], *, reason: str = REQUESTED) -> dict[int, str]:
        """Begins an epoch in each of these partitions, whatever it is in; gives the reasons of those that have begun.

        Leaves out those that cannot be reached. Raises MeterUnavailable.
        """
        return (await self._begin(wanted=partitions, reason=reason)).reasons

    async def _enter_again(self, partitions: Iterable[int]) -> int:
        ended = list(partitions)
        for partition in ended:
            self.mark_ended(partition, self._entered[partition].epoch)
        for partition in ended:
            await self.enter(partition)
        return len(ended)

    async def _join(self) -> None:
        """One task enters, however many wait for it."""
        if self._entering is None or self._entering.done():
            self._entering = asyncio.get_running_loop().create_task(self._enter_all())
        await asyncio.shield(self._entering)

    async def _enter_all(self) -> None:
        self._failures = {}
        connections = self._connections()
        found = await self._ask([partition for partition in connections if self.current(partition) is None])
        epochs = await self._confirmed(found)
        self._enter_soon(epochs)
        await self._replay_and_enter(epochs, connections)
        missing = found.keys() - epochs.keys() - self._failures.keys()
        if not missing:
            return
        try:
            epochs = (await self._begin()).epochs
        except (MeterUnavailable, MeterError) as error:
            self._failures |= dict.fromkeys(missing, error)
            return
        self._enter_soon(epochs)
        await self._replay_and_enter(epochs, connections)

    async def _confirmed(self, found: Mapping[int, RedisMarks]) -> dict[int, str]:
        """The epochs that both stores have. Without PostgreSQL, those that this process has entered before."""
        reading = asyncio.ensure_future(self._register.read(list(found)))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait((reading,), timeout=CONFIRM_SECONDS)  # a read that takes longer goes on, and is not needed
        if reading.done() and reading.exception() is None:
            stored = reading.result()
            agreed = [each for each in found if compare(found[each], stored.get(each)) is Agreement.AGREED]
        else:
            entered = {partition: each.epoch for partition, each in self._entered.items()}
            agreed = [each for each, marks in found.items() if marks.is_same_run and entered.get(each) == marks.epoch]
            away = NotSent("Redis may be in a new epoch, and PostgreSQL is out of reach")
            self._failures |= dict.fromkeys(found.keys() - set(agreed), away)
        return {partition: found[partition].epoch for partition in agreed}

    async def _begin(self, *, wanted: Collection[int] = (), reason: str = REQUESTED) -> _Begun:
        """Begins an epoch wherever the stores disagree, and in `wanted`.

        A PostgreSQL that has lost something ends all epochs, also where Redis is out of reach now.
        """
        everywhere = range(len(self._keys))
        async with self._register.lock(everywhere) as register:
            found = await self._ask(self._connections())
            stored = await register.read()
            reasons = {each: compare(found[each], stored.get(each)) for each in found}
            begun = {each: str(why) for each, why in reasons.items() if why is not Agreement.AGREED}
            if Agreement.POSTGRESQL_BEHIND in reasons.values():
                begun = dict.fromkeys(everywhere, str(Agreement.POSTGRESQL_BEHIND))
            begun |= {each: reason for each in wanted if each in found and each not in begun}
            names = {each: _name(found.get(each), stored.get(each)) for each in begun}
            begun |= {each: FIRST for each, name in names.items() if _is_first(name)}
            agreed = {each: found[each].epoch for each in found if each not in begun}
            agreed |= await self._start(names, found, stored)
            await register.begin(names)
        _report(begun, found, stored)
        return _Begun(agreed, {each: why for each, why in begun.items() if each in agreed})

    async def _start(self, names: Mapping[int, str], found: Mapping[int, RedisMarks], stored: Marks) -> dict[int, str]:
        """Begins these epochs in Redis; gives those that it is in then. What fails is noticed at the next look."""
        reachable = [partition for partition in names if partition in found]
        starting = [
            self._run(
                partition,
                stored.get(partition, _NOTHING_STORED),
                name=names[partition],
                lost_epoch=found[partition].epoch,
            )
            for partition in reachable
        ]
        results = await asyncio.gather(*starting, return_exceptions=True)
        return self._without_failures(reachable, results, lambda reply: str(reply[1].decode()))

    def _enter_soon(self, epochs: Mapping[int, str]) -> None:
        changed = [each for each, epoch in epochs.items() if self._is_changed(each, epoch)]
        if changed:
            self.on_changed(frozenset(changed))

    def _is_changed(self, partition: int, epoch: str) -> bool:
        known = self._entered.get(partition)
        return known is not None and known.epoch != epoch

    async def _replay_and_enter(self, epochs: Mapping[int, str], connections: Mapping[int, object]) -> None:
        known = [partition for partition in epochs if partition in connections]
        entering = [self._enter_one(each, epochs[each], connections[each]) for each in known]
        results = await asyncio.gather(*entering, return_exceptions=True)
        self._without_failures(known, results, lambda _: "")

    async def _enter_one(self, partition: int, epoch: str, connection: object) -> None:
        if self._is_changed(partition, epoch):
            await self._replay(partition, epoch)
        if self._redis.connection(self._keys[partition].catalogue) is not connection:
            raise MeterUnavailable("the connection to Redis has changed")
        self._entered[partition] = _Entered(epoch, connection)

    def _connections(self) -> dict[int, object]:
        """The present connection of each partition that has one."""
        connections = {number: self._redis.connection(keys.catalogue) for number, keys in enumerate(self._keys)}
        self._failures |= {
            partition: NotSent("not connected to Redis") for partition, each in connections.items() if each is None
        }
        return {partition: each for partition, each in connections.items() if each is not None}

    async def _ask(self, partitions: Iterable[int]) -> dict[int, RedisMarks]:
        """What Redis has, and whether this run of the server began it."""
        asked = list(partitions)
        asking = [self._run(partition, _NOTHING_STORED) for partition in asked]
        results = await asyncio.gather(*asking, return_exceptions=True)
        return self._without_failures(asked, results, _marks_of)

    async def _read_marks(self, partitions: Iterable[int]) -> dict[int, RedisMarks]:
        """What Redis has, where this process has asked over the present connection which run of the server it is."""
        asked = list(partitions)
        fields = (EPOCH_FIELD, VERSION_FIELD, TRIMMED_FIELD, PUBLISHED_FIELD)
        commands: list[Command] = [(b"HMGET", self._keys[partition].catalogue, *fields) for partition in asked]
        found = await self._redis.pipeline(commands)
        return {
            partition: RedisMarks(
                (epoch or b"").decode(), True, int(version or 0), (last_id or b"0-0").decode(), int(published or 0)
            )
            for partition, (epoch, version, last_id, published) in zip(asked, found, strict=True)
        }

    def _without_failures(
        self, partitions: Sequence[int], results: Sequence[Any], convert: Callable[[Any], Result]
    ) -> dict[int, Result]:
        """The results by partition; failures are noted, so that one partition does not keep out the others."""
        converted: dict[int, Result] = {}
        for partition, result in zip(partitions, results, strict=True):
            if isinstance(result, MeterUnavailable | MeterError):
                self._failures[partition] = result
            elif isinstance(result, BaseException):
                raise result
            else:
                converted[partition] = convert(result)
        return converted

    async def _run(self, partition: int, start: PostgresqlMarks, *, name: str = "", lost_epoch: str = "") -> list[Any]:
        keys = self._keys[partition]
        arguments = ENTER_EPOCH.ordered(
            new_epoch=name,
            lost_epoch=lost_epoch,
            catalogue_version=start.catalogue_version,
            published=start.published,
            following_id=id_after(start.last_id),
            replay_ms=0 if _is_first(name) else int(REPLAY_WINDOW_SECONDS * 1000),
        )
        reply: list[Any] = await self._redis.run(ENTER_EPOCH, (keys.catalogue, keys.journal), arguments)
        return reply


def _disagree(redis: RedisMarks, postgresql: PostgresqlMarks | None) -> bool:
    return compare(redis, postgresql) is not Agreement.AGREED


def _marks_of(reply: Sequence[Any]) -> RedisMarks:
    result, epoch, version, last_id, published = reply
    return RedisMarks(epoch.decode(), result == EpochResult.CURRENT, int(version), last_id.decode(), int(published))


def _name(redis: RedisMarks | None, postgresql: PostgresqlMarks | None) -> str:
    return f"{next_number(redis, postgresql)}-{token_hex(8)}"


def _is_first(name: str) -> bool:
    return number_of(name) == 1


def _report(begun: Mapping[int, str], found: Mapping[int, RedisMarks], stored: Marks) -> None:
    for reason in sorted(set(begun.values())):
        partitions = [partition for partition, why in begun.items() if why == reason]
        metrics.EPOCHS_BEGUN.labels(reason).inc(len(partitions))
        lost = {
            name
            for partition in partitions
            if partition in found and partition in stored
            for name in lost_by_postgresql(found[partition], stored[partition])
        }
        level = _LEVELS.get(reason, logging.WARNING)
        log.log(level, "epochs_begun", reason=reason, partitions=len(partitions), lost_by_postgresql=sorted(lost))
