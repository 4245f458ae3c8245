"""Named moments at which a part is killed, recognised from outside: by what it sends or is about to receive.

A trap waits for marks in their order on one connection of a `FaultProxy`. It springs before the last of them passes, or
when the first reply after it comes back; what would have passed does not. So the killed process, or the server it spoke
to, is left in the middle of exactly this step, and nothing in the product knows of traps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.guarantees.faults.proxy import Connection, FaultProxy


@dataclass(frozen=True, slots=True)
class Moment:
    """Right before the last of these marks is sent or, if `is_answered`, before its reply arrives."""

    name: str
    marks: tuple[bytes, ...]
    is_answered: bool = False

    def __str__(self) -> str:
        return self.name


class Trap:
    """Springs once, at its moment."""

    def __init__(self, moment: Moment, spring: Callable[[], object]) -> None:
        self._moment = moment
        self._spring = spring
        self._seen: dict[Connection, int] = {}
        self.sprung = asyncio.Event()

    @contextmanager
    def set_on(self, proxy: FaultProxy) -> Iterator[None]:
        """Arms the trap for what passes this proxy during the block."""
        proxy.requests.watch, proxy.replies.watch = self._on_request, self._on_reply
        try:
            yield
        finally:
            proxy.requests.watch = proxy.replies.watch = None

    def _on_request(self, connection: Connection, data: bytes) -> bool:
        marks, seen, position = self._moment.marks, self._seen.get(connection, 0), 0
        while seen < len(marks) and (found := data.find(marks[seen], position)) >= 0:
            seen, position = seen + 1, found + len(marks[seen])
        self._seen[connection] = seen
        return seen == len(marks) and not self._moment.is_answered and self._go()

    def _on_reply(self, connection: Connection, _: bytes) -> bool:
        return self._moment.is_answered and self._seen.get(connection) == len(self._moment.marks) and self._go()

    def _go(self) -> bool:
        if self.sprung.is_set():
            return False
        self._spring()
        self.sprung.set()
        return True
