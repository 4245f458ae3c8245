"""Says every few seconds that this process lives, so that nobody settles its calls for it."""

from __future__ import annotations

from gateway.meter.holds import HEARTBEAT_SECONDS, Holds


class Heartbeat:
    """The beat of one owner of holds. Run it once before the first admission."""

    idle_seconds = float(HEARTBEAT_SECONDS)

    def __init__(self, holds: Holds, owner: str) -> None:
        self._holds = holds
        self._owner = owner

    async def run_once(self) -> int:
        """One beat. Always 0: there is never more to be done at once."""
        await self._holds.renew_heartbeat(self._owner)
        return 0
