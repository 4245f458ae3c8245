"""Shares the turns of the event loop between clients, so that nobody waits behind all that others have sent.

A loop serves whatever is ready before it looks again. Hundreds of connections with a request each, or a piece of a
body, would make one turn of it last as long as all of them together, and a call takes several turns. So a turn begins
a bounded amount of work; what is beyond it waits, and the addresses take turns.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

# Of a turn, in shares of about 0.1 ms: a request is one, and so are 64 KiB of a body.
SHARES_PER_TURN = 16
_TURN_SECONDS = 0.0005  # uvloop reads its clock once a turn, in milliseconds
_SHARE_BITS = 16

Work = Callable[[], None]


class Turns:
    """The turns of one process's loop."""

    __slots__ = ("_began_at", "_is_due", "_loop", "_shares_left", "_time", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._time = loop.time
        self._began_at = 0.0
        self._is_due = False
        self._shares_left = 0
        self._waiting: OrderedDict[Hashable, deque[tuple[int, Work]]] = OrderedDict()

    def take(self, shares: int = 1) -> bool:
        """Whether work may be done at once. If not, it has to `wait`."""
        if self._waiting:
            return False
        now = self._time()
        if now - self._began_at >= _TURN_SECONDS:
            self._began_at = now
            self._shares_left = SHARES_PER_TURN
        if self._shares_left <= 0:
            return False
        self._shares_left -= shares
        return True

    def wait(self, address: Hashable, work: Work, shares: int = 1) -> None:
        """Does the work in one of the next turns, after what waits from the same address."""
        self._waiting.setdefault(address, deque()).append((shares, work))
        self._see_to_next()

    def _turn(self) -> None:
        self._is_due = False
        self._began_at = self._time()
        self._shares_left = 0
        due, self._waiting = self._waiting, OrderedDict()  # what this work brings waits for the next turn
        left = SHARES_PER_TURN
        try:
            while left > 0 and due:
                address, queue = due.popitem(last=False)
                shares, work = queue.popleft()
                if queue:
                    due[address] = queue  # behind the other addresses
                left -= shares
                work()
        finally:
            for address, queue in self._waiting.items():
                due.setdefault(address, deque()).extend(queue)
            self._waiting = due
            self._shares_left = left
            self._see_to_next()

    def _see_to_next(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)


def shares_of(size_bytes: int) -> int:
    """What a piece of a body counts."""
    return 1 + (size_bytes >> _SHARE_BITS)
