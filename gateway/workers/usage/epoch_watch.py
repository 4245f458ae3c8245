"""Notices that Redis was lost, also when nobody calls, and hands in what this process knows of it."""

from __future__ import annotations

from gateway.meter.meter import Meter


class EpochWatch:
    """Looks twice in the time that a new epoch waits for us (`REPLAY_WINDOW_SECONDS`)."""

    idle_seconds = 0.5

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def run_once(self) -> int:
        """Gives how many partitions have begun anew. Raises MeterUnavailable."""
        return await self._meter.check_epochs()
