"""What this process would have to tell a Redis that has lost it: its calls under way, and those it settled lately.

A settlement is kept until PostgreSQL has it. While PostgreSQL is away that may be long, so MAX_SETTLED bounds it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

from gateway.meter.idempotency import Claim, Kept
from gateway.meter.keys import AccountKeys
from policies.usage import records

MAX_SETTLED = 20_000  # some 20 MB; past it the partition that settles most forgets its oldest


class Opened(NamedTuple):
    """A call under way: the epoch in which Redis has its hold, and the credits and the record's head in the hold."""

    keys: AccountKeys
    request_id: str
    epoch: str
    held: int
    head: str
    claim: Claim | None = None


class Settled(NamedTuple):
    """A settled call: its record, the journal entry that it is in, or in one before, and what is left of its claim."""

    keys: AccountKeys
    request_id: str
    record: str
    entry_id: str
    kept: Kept | None = None

    def unclaimed(self, tail: str) -> Settled:
        """The same call with another end, and without its key."""
        head = self.record.split("\t")[: len(records.HEAD_COLUMNS)]
        return self._replace(record="\t".join([*head, tail]), kept=None)


class Recall:
    """The calls of one process."""

    def __init__(self) -> None:
        self._open: dict[str, Opened] = {}
        self._settled: defaultdict[int, deque[Settled]] = defaultdict(deque)
        self._count = 0

    def admitted(self, call: Opened) -> None:
        self._open[call.request_id] = call

    def held_again(self, call: Opened) -> None:
        """The same call, in a new epoch; unless it has ended since."""
        if call.request_id in self._open:
            self._open[call.request_id] = call

    def ending(self, request_id: str) -> Opened | None:
        """The call, which is under way no more; None if it is not one of ours."""
        return self._open.pop(request_id, None)

    def settled(self, call: Settled) -> None:
        calls = self._settled[call.keys.partition]
        calls.append(call)
        self._count += 1
        if self._count > MAX_SETTLED:
            calls.popleft()
            self._count -= 1

    def written(self, partition: int, upto: str) -> None:
        """PostgreSQL has the journal of the partition up to this entry."""
        last, calls = id_order(upto), self._settled[partition]
        while calls and id_order(calls[0].entry_id) <= last:
            calls.popleft()
            self._count -= 1

    def under_way(self, partition: int) -> list[Opened]:
        return [call for call in self._open.values() if call.keys.partition == partition]

    def is_under_way(self, request_id: str) -> bool:
        return request_id in self._open

    def take_settled(self, partition: int) -> list[Settled]:
        """Those that PostgreSQL may not have; they are forgotten here."""
        calls = self._settled.pop(partition, deque())
        self._count -= len(calls)
        return list(calls)


def id_order(entry_id: str) -> tuple[int, int]:
    """What orders the ids of stream entries."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def id_after(entry_id: str) -> str:
    """The least id behind this one."""
    milliseconds, sequence = id_order(entry_id)
    return f"{milliseconds}-{sequence + 1}"
