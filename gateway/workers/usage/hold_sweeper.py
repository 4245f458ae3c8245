"""Ends the calls of processes that died: their holds are settled as `abandoned`, at no charge.

A process counts as dead when its beat has been missing for as long as a living one needs to beat again after Redis was
away. Wrong in doubt means late: a hold is given back a little later. A process that was frozen for longer than that and
goes on, or has left its settlements in a spool, corrects what was done here (`gateway/meter/scripts/late.lua`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from uuid import UUID

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.meter.holds import Hold, Holds
from gateway.meter.meter import Meter
from policies.model import Outcome
from policies.usage import records

# With BEAT_LIFETIME_SECONDS before it and the pause between two passes after it: within 30 s of the death.
ABSENCE_SECONDS = 8.0

# A longer silence between two passes was ours (a stopped machine, Redis away), and may have been everybody's.
MAX_PASS_GAP_SECONDS = 6.0

_USER_ID = records.HEAD_COLUMNS.index("user_id")
_TAIL = records.tail(Outcome.ABANDONED, None, None, 0, *[None] * (len(records.TAIL_COLUMNS) - 4))


class HoldSweeper:
    """Any number may run; a hold is settled once."""

    idle_seconds = 2.0

    def __init__(self, meter: Meter, holds: Holds, *, monotonic: Callable[[], float] = monotonic_seconds) -> None:
        self._meter = meter
        self._holds = holds
        self._monotonic = monotonic
        self._absent_since: dict[str, float] = {}
        self._last_pass = -MAX_PASS_GAP_SECONDS

    async def run_once(self) -> int:
        """One pass over all holds; gives how many were settled."""
        absent_since, self._absent_since = self._absent_since, {}  # a pass that fails leaves nothing behind
        started = self._monotonic()
        if started - self._last_pass > MAX_PASS_GAP_SECONDS:
            absent_since = {}
        open_holds = [hold async for hold in self._open_holds()]
        metrics.HOLDS_OPEN.set(len(open_holds))
        owners = {hold.owner for hold in open_holds}
        absent = owners - await self._holds.live_owners(owners)
        self._absent_since = {owner: absent_since.get(owner, started) for owner in absent}
        settled = await self._sweep(open_holds, self._dead(started))
        self._last_pass = self._monotonic()  # at its end: passes over many partitions take their time
        return settled

    def _dead(self, now: float) -> frozenset[str]:
        return frozenset(owner for owner, since in self._absent_since.items() if now - since >= ABSENCE_SECONDS)

    async def _open_holds(self) -> AsyncIterator[Hold]:
        for partition in range(self._holds.partitions):
            cursor = 0
            while True:
                cursor, holds = await self._holds.open(partition, cursor)
                for hold in holds:
                    yield hold
                if cursor == 0:
                    break

    async def _sweep(self, open_holds: Collection[Hold], dead: Collection[str]) -> int:
        settled = 0
        for hold in open_holds:
            if hold.owner in dead:
                user_id = UUID(hold.head.split("\t")[_USER_ID])
                settled += await self._meter.abandon(self._meter.keys(user_id), hold.request_id, tail=_TAIL)
        metrics.SETTLED.inc(settled)
        return settled
