"""The journal: a stream for each partition, read from its start and trimmed once PostgreSQL has what was read.

A stream has what is not confirmed to be in PostgreSQL. Reading an entry twice is harmless, since its request id
identifies it. Trimming an unread entry would lose it, so only exact, committed ids are trimmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from gateway.meter.client.client import RedisClient
from gateway.meter.client.packing import Command
from gateway.meter.keys import partition_keys
from gateway.meter.layout import CORRECTION, EPOCH_FIELD, TRIMMED_FIELD
from gateway.meter.replay_buffer import id_after
from gateway.meter.scripts import TRIM_JOURNAL
from policies.usage.records import RecordVersion, copy_line, parse_field

START = "0-0"  # before every id (Redis, "Entry ID" of XADD)

# XRANGE blocks Redis for about 0.3 us an entry, and Redis runs pipelined commands without a pause.
MAX_ENTRIES_PER_READ = 500
MIN_ENTRIES_PER_READ = 20

# By how much the clock of Redis may have been set back: entries are then younger by their ids than they are.
CLOCK_MARGIN = timedelta(seconds=1)


class JournalEntry(NamedTuple):
    """One settled call: its stream id, the version of its record, and the record as a line of PostgreSQL COPY text.

    `version` is None for what is no record. A correction is the record of a call that was swept, and settled after all;
    or of one that PostgreSQL may have already.
    """

    id: str
    version: RecordVersion | None
    line: bytes
    is_correction: bool = False

    @property
    def is_of_newer_release(self) -> bool:
        return self.version is not None and not self.version.is_known


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """Entries of one partition in the order of their ids; never empty."""

    entries: tuple[JournalEntry, ...]

    @property
    def last_id(self) -> str:
        return self.entries[-1].id


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many entries PostgreSQL lacks, and the age of the oldest by the Redis clock."""

    entries: int
    oldest_seconds: float

    def written_until(self, now: datetime) -> datetime:
        """The moment up to which PostgreSQL has every ended call, if the backlog was read at `now` or later.

        Ages are differences of one clock, so whether that of Redis agrees with `now` does not matter.
        """
        return now - timedelta(seconds=self.oldest_seconds) - CLOCK_MARGIN if self.entries else now


class Journal:
    """The streams of all partitions."""

    def __init__(self, redis_client: RedisClient, partitions: int) -> None:
        self._redis = redis_client
        self._keys = tuple(partition_keys(number) for number in range(partitions))
        self._read_in: dict[int, bytes] = {}  # the epoch in which a partition was last read from its start

    @property
    def partitions(self) -> int:
        return len(self._keys)

    async def read(self, after: Mapping[int, str], limit: int) -> dict[int, JournalBatch]:
        """About `limit` entries in all, of each of these partitions past an id; partitions without any are left out."""
        count = max(MIN_ENTRIES_PER_READ, min(MAX_ENTRIES_PER_READ, limit // max(len(after), 1)))
        commands: list[Command] = [
            (b"XRANGE", self._keys[partition].journal, f"({last_id}", b"+", b"COUNT", count)
            for partition, last_id in after.items()
        ]
        begun = [partition for partition, last_id in after.items() if last_id == START]
        # Read before the entries: if Redis is lost in between, they are not trimmed, and are read again.
        epochs: list[Command] = [(b"HGET", self._keys[partition].catalogue, EPOCH_FIELD) for partition in begun]
        found = await self._redis.pipeline([*epochs, *commands])
        self._read_in |= {partition: epoch or b"" for partition, epoch in zip(begun, found, strict=False)}
        replies = found[len(begun) :]
        return {
            partition: JournalBatch(tuple(_entry(raw) for raw in reply))
            for partition, reply in zip(after, replies, strict=True)
            if reply
        }

    async def trim(self, upto: Mapping[int, str]) -> None:
        """Deletes entries up to and including these ids. Only for ids that PostgreSQL has committed.

        Deletes nothing if Redis was lost since the entries were read: other entries may have these ids.
        """
        await asyncio.gather(
            *(
                self._redis.run(
                    TRIM_JOURNAL,
                    (self._keys[partition].catalogue, self._keys[partition].journal),
                    TRIM_JOURNAL.ordered(
                        epoch=self._read_in.get(partition, b""), last_id=last_id, following_id=id_after(last_id)
                    ),
                )
                for partition, last_id in upto.items()
            )
        )

    async def trimmed_upto(self, partitions: Iterable[int]) -> dict[int, str]:
        """The last entry that was trimmed of each of these journals in the present epoch; START if none was."""
        asked = list(partitions)
        found = await self._redis.pipeline([(b"HGET", self._keys[each].catalogue, TRIMMED_FIELD) for each in asked])
        return {
            each: START if last_id is None else last_id.decode() for each, last_id in zip(asked, found, strict=True)
        }

    async def lengths(self) -> dict[int, int]:
        """The number of entries by partition, without empty partitions."""
        lengths = await self._redis.pipeline([(b"XLEN", keys.journal) for keys in self._keys])
        return {partition: length for partition, length in enumerate(lengths) if length}

    async def length(self) -> int:
        """The number of entries in all partitions."""
        return sum((await self.lengths()).values())

    async def backlog(self) -> Backlog:
        """How far PostgreSQL is behind."""
        lengths = await self.lengths()
        return Backlog(sum(lengths.values()), await self.oldest_seconds(lengths))

    async def oldest_seconds(self, partitions: Iterable[int]) -> float:
        """The age of the oldest entry of these partitions by the Redis clock; 0 without any."""
        firsts: list[Command] = [
            (b"XRANGE", self._keys[partition].journal, b"-", b"+", b"COUNT", 1) for partition in partitions
        ]
        *replies, (seconds, microseconds) = await self._redis.pipeline([*firsts, (b"TIME",)])
        ids = [reply[0][0] for reply in replies if reply]
        if not ids:
            return 0.0
        oldest_ms = min(int(entry_id.partition(b"-")[0]) for entry_id in ids)
        return max(0.0, int(seconds) + int(microseconds) / 1e6 - oldest_ms / 1e3)


def is_correction(rest: Sequence[bytes]) -> bool:
    """By the fields of an entry behind its record."""
    return tuple(rest) == CORRECTION


def _entry(raw: tuple[bytes, Sequence[bytes]]) -> JournalEntry:
    entry_id, (field, record, *rest) = raw
    return JournalEntry(entry_id.decode(), parse_field(field), copy_line(field, record), is_correction(rest))
