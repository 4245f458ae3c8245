"""A loop whose time passes only while it waits: no timer expires because the machine took the CPU away.

Where both ends of a connection live on the loop of the tests, a process that stood still for half a second has kept
nobody waiting: what was due in between comes first. Timers that are let expire take as long as they always did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

STEP_SECONDS = 0.005  # more than the work of one turn of the loop ever takes by itself


class LoopTime:
    """The time of one loop, read by `time`: behind the machine's by what it stood still.

    A turn of the loop counts for what it waited without anything happening, and for no more than a step besides.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_steady = False
        self._selector: Any = loop._selector  # type: ignore[attr-defined] # of asyncio's own loops
        self._select = self._selector.select
        self._behind_seconds = 0.0
        self._most = 0.0
        self._selector.select = self._wait
        loop.time = self.time  # type: ignore[method-assign] # for its timers ask it by this name

    def time(self) -> float:
        now = monotonic() - self._behind_seconds
        return min(now, self._most) if self.is_steady else now

    def go_on(self, *, is_steady: bool) -> None:
        """From now on, without a leap."""
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
        self._most = now + STEP_SECONDS


_times: dict[asyncio.AbstractEventLoop, LoopTime] = {}


@contextmanager
def steady() -> Iterator[None]:
    """The running loop is one whose time passes only while it waits."""
    loop = asyncio.get_running_loop()
    time = _times.get(loop) or _times.setdefault(loop, LoopTime(loop))
    before = time.is_steady
    time.go_on(is_steady=True)
    try:
        yield
    finally:
        time.go_on(is_steady=before)
