"""What this process would have to tell a Redis that has lost it: its calls under way, and those it settled lately.

A settlement is kept until PostgreSQL has it. While PostgreSQL is away that may be long, so MAX_SETTLED bounds it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.keys import AccountKeys
from policies.usage import records

MAX_SETTLED = 20_000  # some 20 MB; past it the partition that settles most forgets its oldest


class OpenCall(NamedTuple):
    """A call under way: the epoch in which Redis has its hold, and the credits and the record's head in the hold."""

    keys: AccountKeys
    request_id: str
    epoch: str
    held: int
    head: str
    claim: IdempotencyClaim | None = None


class SettledCall(NamedTuple):
    """A settled call: its record, the journal entry that it is in, or in one before, and what is left of its claim."""

    keys: AccountKeys
    request_id: str
    record: str
    entry_id: str
    kept: ClaimOutcome | None = None

    def without_claim(self, tail: str) -> SettledCall:
        """The same call with another end, and without its key."""
        head = self.record.split("\t")[: len(records.HEAD_COLUMNS)]
        return self._replace(record="\t".join([*head, tail]), kept=None)


class ReplayBuffer:
    """The calls of one process."""

    def __init__(self) -> None:
        self._open: dict[str, OpenCall] = {}
        self._settled: defaultdict[int, deque[SettledCall]] = defaultdict(deque)
        self._count = 0

    def add_open(self, call: OpenCall) -> None:
        self._open[call.request_id] = call

    def update_open(self, call: OpenCall) -> None:
        """The same call, in a new epoch; unless it has ended since."""
        if call.request_id in self._open:
            self._open[call.request_id] = call

    def remove_open(self, request_id: str) -> OpenCall | None:
        """The call, which is under way no more; None if it is not one of ours."""
        return self._open.pop(request_id, None)

    def add_settled(self, call: SettledCall) -> None:
        calls = self._settled[call.keys.partition]
        calls.append(call)
        self._count += 1
        if self._count > MAX_SETTLED:
            calls.popleft()
            self._count -= 1

    def discard_through(self, partition: int, upto: str) -> None:
        """PostgreSQL has the journal of the partition up to this entry."""
        last, calls = id_order(upto), self._settled[partition]
        while calls and id_order(calls[0].entry_id) <= last:
            calls.popleft()
            self._count -= 1

    def open_calls(self, partition: int) -> list[OpenCall]:
        return [call for call in self._open.values() if call.keys.partition == partition]

    def is_open(self, request_id: str) -> bool:
        return request_id in self._open

    def take_settled(self, partition: int) -> list[SettledCall]:
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
