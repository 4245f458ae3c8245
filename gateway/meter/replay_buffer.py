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


class Settlement(NamedTuple):
    """The end of one call: what it is charged, and the suffix of its record.

    `record_prefix` and `epoch`, that of its admission, let a call be settled whose hold Redis has lost. A call admitted
    on outage credit has a prefix and no epoch. `claim_outcome` says what becomes of the claim of a call with an
    Idempotency-Key.
    """

    keys: AccountKeys
    request_id: str
    charge: int
    record_suffix: str
    record_prefix: str = ""
    epoch: str = ""
    claim_outcome: ClaimOutcome | None = None
    is_on_outage_credit: bool = False

    @property
    def record(self) -> str:
        return records.join(self.record_prefix, self.record_suffix)

    def without_response(self) -> Settlement:
        """The same, small enough to be buffered and spooled: repeats of its Idempotency-Key are refused."""
        outcome = self.claim_outcome
        return self if outcome is None else self._replace(claim_outcome=outcome.without_response)

    def abandoned(self) -> Settlement:
        """The same call, ended without a charge and without its claim."""
        return self._replace(charge=0, record_suffix=records.abandoned_suffix(), claim_outcome=None)


class ReplayBuffer:
    """The calls of one process; `under_way` are those that are not settled, by request id."""

    def __init__(self) -> None:
        self.under_way: dict[str, OpenCall] = {}
        self._settled: defaultdict[int, deque[tuple[str, Settlement]]] = defaultdict(deque)
        self._count = 0

    def update_open(self, call: OpenCall) -> None:
        """Replaces the call, unless it has ended."""
        if call.request_id in self.under_way:
            self.under_way[call.request_id] = call

    def add_settled(self, settlement: Settlement, entry_id: str) -> None:
        """`entry_id` is that of its journal entry, or of an earlier one."""
        calls = self._settled[settlement.keys.partition]
        calls.append((entry_id, settlement))
        self._count += 1
        if self._count > MAX_SETTLED:
            calls.popleft()
            self._count -= 1

    def discard_through(self, partition: int, entry_id: str) -> None:
        """Discards settlements up to this journal entry: PostgreSQL has them."""
        last, calls = id_order(entry_id), self._settled[partition]
        while calls and id_order(calls[0][0]) <= last:
            calls.popleft()
            self._count -= 1

    def open_calls(self, partition: int) -> list[OpenCall]:
        return [call for call in self.under_way.values() if call.keys.partition == partition]

    def take_settled(self, partition: int) -> list[tuple[str, Settlement]]:
        """Removes and gives those that PostgreSQL may not have, each behind its journal entry."""
        calls = self._settled.pop(partition, deque())
        self._count -= len(calls)
        return list(calls)


def id_after(entry_id: str) -> str:
    """The least id after this one."""
    milliseconds, sequence = id_order(entry_id)
    return f"{milliseconds}-{sequence + 1}"
