"""That every admitted call is settled: at once where Redis takes it, else again and again until it does.

Settling is idempotent by request id, so whatever is unknown is simply settled again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from gateway.meter.link import MeterUnavailable
from gateway.meter.meter import AccountKeys, Meter


class Settlement(NamedTuple):
    """The end of one call: what it is charged, and the tail of its record."""

    keys: AccountKeys
    request_id: str
    charge: int
    tail: str


class Settler:
    """Settles calls; owes what Redis has not taken yet."""

    idle_seconds = 0.1

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._owed: deque[Settlement] = deque()

    def __repr__(self) -> str:
        return f"<Settler {len(self._owed)} owed>"

    async def settle(self, settlement: Settlement) -> int | None:
        """The balance after the call, or None where Redis could not say: the settlement is then owed."""
        try:
            return await self._send(settlement)
        except MeterUnavailable:
            self._owed.append(settlement)
            return None
        except asyncio.CancelledError:
            self._owed.append(settlement)  # it may have been taken; settling twice changes nothing
            raise

    def owe(self, settlement: Settlement) -> None:
        """Settles later, for a caller that cannot wait."""
        self._owed.append(settlement)

    async def run_once(self) -> int:
        """Settles what is owed, until Redis refuses again; gives how many were settled."""
        settled = 0
        while self._owed:
            settlement = self._owed.popleft()
            try:
                await self._send(settlement)
            except (MeterUnavailable, asyncio.CancelledError):
                self._owed.appendleft(settlement)
                raise
            settled += 1
        return settled

    async def _send(self, settlement: Settlement) -> int | None:
        return await self._meter.settle(
            settlement.keys, settlement.request_id, charge=settlement.charge, tail=settlement.tail
        )
