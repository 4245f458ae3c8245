"""One deadline that moves often and is hardly ever met: moving it costs an assignment, not a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

_EARLY_SECONDS = 0.001  # uvloop's clock and timers count in milliseconds


class Deadline:
    __slots__ = ("_action", "_armed_at", "_at", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = inf
        self._action: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = inf

    def set(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls `action` in that time, unless the deadline is moved before."""
        self._at = at = self._loop.time() + seconds
        self._action = action
        if at < self._armed_at:
            self._arm()

    def clear(self) -> None:
        self._at = inf
        self._action = None

    def cancel(self) -> None:
        """For good: leaves nothing behind in the loop."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = self._at
        self._timer = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._armed_at = inf
        if self._at > self._loop.time() + _EARLY_SECONDS:
            if self._at != inf:
                self._arm()
            return
        action = self._action
        self.clear()
        if action is not None:
            action()
