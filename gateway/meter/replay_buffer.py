"""What this process must replay to a Redis that has lost it: its calls under way, and those it settled lately.

A settlement stays until PostgreSQL has it. While PostgreSQL is away that may be long, so MAX_SETTLED bounds the buffer.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.keys import AccountKeys
from policies.usage import records
from policies.usage.account_load import id_order

MAX_SETTLED = 20_000  # some 20 MB; beyond it, the partition that settles drops its oldest


class OpenCall(NamedTuple):
    """A call under way: the epoch in which Redis has its hold, the credits held, and the prefix of its record."""

    keys: AccountKeys
    request_id: str
    epoch: str
    amount: int
    prefix: str
    claim: IdempotencyClaim | None = None


class SettledCall(NamedTuple):
    """A settled call: both halves of its record, its journal entry or an earlier one, and the outcome of its claim."""

    keys: AccountKeys
    request_id: str
    prefix: str
    suffix: str
    entry_id: str
    claim_outcome: ClaimOutcome | None = None

    @property
    def record(self) -> str:
        return records.join(self.prefix, self.suffix)

    def abandoned(self) -> SettledCall:
        """The same call, ended without a charge and without its claim."""
        return self._replace(suffix=records.abandoned_suffix(), claim_outcome=None)


class ReplayBuffer:
    """The calls of one process; `under_way` are those that are not settled, by request id."""

    def __init__(self) -> None:
        self.under_way: dict[str, OpenCall] = {}
        self._settled: defaultdict[int, deque[SettledCall]] = defaultdict(deque)
        self._count = 0

    def update_open(self, call: OpenCall) -> None:
        """Replaces the call, unless it has ended."""
        if call.request_id in self.under_way:
            self.under_way[call.request_id] = call

    def add_settled(self, call: SettledCall) -> None:
        calls = self._settled[call.keys.partition]
        calls.append(call)
        self._count += 1
        if self._count > MAX_SETTLED:
            calls.popleft()
            self._count -= 1

    def discard_through(self, partition: int, entry_id: str) -> None:
        """Discards settlements up to this journal entry: PostgreSQL has them."""
        last, calls = id_order(entry_id), self._settled[partition]
        while calls and id_order(calls[0].entry_id) <= last:
            calls.popleft()
            self._count -= 1

    def open_calls(self, partition: int) -> list[OpenCall]:
        return [call for call in self.under_way.values() if call.keys.partition == partition]

    def take_settled(self, partition: int) -> list[SettledCall]:
        """Removes and gives those that PostgreSQL may not have."""
        calls = self._settled.pop(partition, deque())
        self._count -= len(calls)
        return list(calls)


def id_after(entry_id: str) -> str:
    """The least id after this one."""
    milliseconds, sequence = id_order(entry_id)
    return f"{milliseconds}-{sequence + 1}"
