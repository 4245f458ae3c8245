"""An event loop whose time passes only while it waits, so no timer expires because the machine took the CPU away.

Where both ends of a connection live on the loop of the test, a process that stood still for half a second has kept
nobody waiting: whatever was due in between comes first. Timers that expire while the loop waits take as long as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

STEP_SECONDS = 0.005  # more CPU time than one iteration of the loop takes


class SteadyClock:
    """The time of one loop: monotonic time less the time for which the process stood still.

    An iteration of the loop counts for the time that it waited without an event, and for at most one step besides.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_steady = False
        self._selector: Any = loop._selector  # type: ignore[attr-defined] # of asyncio's own loops
        self._select = self._selector.select
        self._behind_seconds = 0.0
        self._latest = 0.0
        self._selector.select = self._wait
        loop.time = self.time  # type: ignore[method-assign] # the loop's timers ask it by this name

    def time(self) -> float:
        now = monotonic() - self._behind_seconds
        return min(now, self._latest) if self.is_steady else now

    def switch(self, *, is_steady: bool) -> None:
        """Switches without a leap of time."""
        self._set(self.time())
        self.is_steady = is_steady

    def _wait(self, timeout: float | None = None) -> Any:
        began = self.time()
        events = self._select(timeout)
        if self.is_steady:
            now = monotonic() - self._behind_seconds
            self._set(min(max(now, began), began + (STEP_SECONDS if events else timeout or 0.0)))
        return events

    def _set(self, now: float) -> None:
        self._behind_seconds = monotonic() - now
        self._latest = now + STEP_SECONDS


_clocks: dict[asyncio.AbstractEventLoop, SteadyClock] = {}


@contextmanager
def steady_clock() -> Iterator[None]:
    """Makes the running loop's time pass only while it waits."""
    loop = asyncio.get_running_loop()
    clock = _clocks.get(loop) or _clocks.setdefault(loop, SteadyClock(loop))
    before = clock.is_steady
    clock.switch(is_steady=True)
    try:
        yield
    finally:
        clock.switch(is_steady=before)
