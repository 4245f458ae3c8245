"""Settles the calls of dead processes as `abandoned`, at no charge, so that their holds are released.

A process counts as dead when its heartbeat has been missing for as long as a living one needs to renew it after an
outage of Redis. In doubt a hold is released late, never early. A process that was only frozen, or left its settlements
in a spool, corrects what was done here (`gateway/meter/scripts/late_settlement.lua`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from uuid import UUID

import structlog

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.meter.holds import Hold, Holds
from gateway.meter.meter import Meter
from policies.usage import records

# Together with HEARTBEAT_TTL_SECONDS before it and the pause between two passes: within 30 s of the death.
ABSENCE_SECONDS = 8.0

# A longer gap between two passes was an outage of this process or of Redis, which may have been everybody's.
MAX_PASS_GAP_SECONDS = 6.0

log = structlog.get_logger(__name__)


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
        """Makes one pass over all holds; gives how many it settled."""
        absent_since, self._absent_since = self._absent_since, {}  # a pass that fails forgets all absences
        started = self._monotonic()
        if started - self._last_pass > MAX_PASS_GAP_SECONDS:
            absent_since = {}
        open_holds = [hold async for hold in self._open_holds()]
        metrics.HOLDS_OPEN.set(len(open_holds))
        owners = {hold.owner for hold in open_holds}
        absent = owners - await self._holds.live_owners(owners)
        self._absent_since = {owner: absent_since.get(owner, started) for owner in absent}
        settled = await self._sweep(open_holds, self._dead(started))
        self._last_pass = self._monotonic()  # at the end, since a pass over many partitions takes long
        return settled

    def _dead(self, now: float) -> frozenset[str]:
        return frozenset(owner for owner, since in self._absent_since.items() if now - since >= ABSENCE_SECONDS)

    async def _open_holds(self) -> AsyncIterator[Hold]:
        for partition in range(self._holds.partitions):
            cursor = 0
            while True:
                cursor, holds = await self._holds.scan(partition, cursor)
                for hold in holds:
                    yield hold
                if cursor == 0:
                    break

    async def _sweep(self, open_holds: Collection[Hold], dead: Collection[str]) -> int:
        settled = 0
        for hold in open_holds:
            if hold.owner in dead and await self._abandon(hold):
                log.warning("hold_swept", request_id=hold.request_id, owner=hold.owner, credits=hold.amount)
                settled += 1
        metrics.SETTLED.inc(settled)
        return settled

    async def _abandon(self, hold: Hold) -> bool:
        user_id = UUID(records.identity(hold.prefix)["user_id"])
        return await self._meter.abandon(self._meter.keys(user_id), hold.request_id)
