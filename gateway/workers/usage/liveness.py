"""What a gateway process does between calls: it renews the lease of its holds, and notices that Redis was lost."""

from __future__ import annotations

from gateway.meter.holds import HEARTBEAT_SECONDS, Holds
from gateway.meter.meter import Meter


class Heartbeat:
    """Renews the lease of one owner's holds, so that nobody sweeps them. Run it once before the first admission."""

    idle_seconds = float(HEARTBEAT_SECONDS)

    def __init__(self, holds: Holds, owner: str) -> None:
        self._holds = holds
        self._owner = owner

    async def run_once(self) -> int:
        """Returns 0: there is never more to do at once."""
        await self._holds.renew_heartbeat(self._owner)
        return 0


class EpochWatch:
    """Notices a new epoch also when nobody calls: it looks twice within `REPLAY_WINDOW_SECONDS`."""

    idle_seconds = 0.5

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def run_once(self) -> int:
        """Returns the number of partitions with a new epoch, after replaying to them. Raises MeterUnavailable."""
        return await self._meter.check_epochs()
