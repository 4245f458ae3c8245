"""Runs attacks on a gateway: so many connections at a time, so many bytes a second, always from one address.

`python -m tests.guarantees.attacks.attackers JSON` runs `Load`s in a process of its own until its input ends, and
prints what they met. It stands for another machine: it takes the CPU that is left over, and little of it, with sockets
and bytes made beforehand and nothing between them.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from urllib.parse import urlsplit

from tests.guarantees.attacks.attacking_connection import AttackingConnection
from tests.guarantees.attacks.kinds import BY_NAME, CUT, HELD, Aim

TURN_SECONDS = 0.02
PATIENCE_SECONDS = 1.0  # for an answer, once everything is sent
NICENESS = 19


@dataclass(frozen=True, slots=True)
class Load:
    """An attack on a URL by the keys of its attackers, which take turns."""

    attack: str
    url: str
    keys: tuple[str, ...]
    seed: int
    connections: int
    bytes_per_second: int


@dataclass
class Met:
    """What the attackers met: connections begun, bytes sent, and how many were answered so."""

    begun: int = 0
    sent_bytes: int = 0
    answers: Counter[str] = field(default_factory=Counter)


class Attackers:
    """The connections of one load, which share its bytes; each begins again once it is answered."""

    def __init__(self, load: Load) -> None:
        self.met = Met()
        self._attack = BY_NAME[load.attack]
        self._load = load
        self._numbers = count()
        self._free_at = 0.0
        self._sending: deque[AttackingConnection] = deque()
        self._timers: list[tuple[float, int, AttackingConnection | None]] = []
        self._open: set[AttackingConnection] = set()
        self._ties = count()
        for _ in range(load.connections):
            self._at(0.0, None)

    @asynccontextmanager
    async def attacking(self) -> AsyncIterator[Met]:
        """Attacks from a thread until the end of the block."""
        wake, waking = socket.socketpair()
        thread = threading.Thread(target=_attack, args=([self], wake))
        thread.start()
        try:
            yield self.met
        finally:
            waking.close()
            thread.join()
            wake.close()

    def turn(self, selector: selectors.BaseSelector) -> float:
        """Does what is due, and gives the seconds until there is more to do."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, connection = heappop(self._timers)
            if connection is None:
                self._begin(selector)
            else:
                self._end(connection, selector)
        while self._sending and self._free_at <= now:
            self._send(self._sending.popleft(), selector, now)
        due = [self._timers[0][0]] if self._timers else []
        due += [self._free_at] if self._sending else []
        return max(0.0, min(due) - now) if due else 1.0

    def ready(self, connection: AttackingConnection, events: int, selector: selectors.BaseSelector) -> None:
        if events & selectors.EVENT_WRITE:
            selector.modify(connection.socket, selectors.EVENT_READ, (self, connection))
            self._sending.append(connection)
        if events & selectors.EVENT_READ and connection.read(self.met.answers):
            if not connection.statuses:
                self.met.answers[CUT] += 1
            self._end(connection, selector)
        elif connection.is_full:
            selector.unregister(connection.socket)

    def stop(self, selector: selectors.BaseSelector) -> None:
        for connection in list(self._open):
            if self._attack.holds and connection.is_open:
                self.met.answers[HELD] += 1
            self._close(connection, selector)

    def _begin(self, selector: selectors.BaseSelector) -> None:
        number = next(self._numbers)
        seed = f"{self._load.seed} {self._attack.name} {number}"
        aim = Aim(self._load.keys[number % len(self._load.keys)], Random(seed))  # noqa: S311 - to be replayed
        address = urlsplit(self._load.url)
        try:
            connection = AttackingConnection((address.hostname or "", address.port or 80), self._attack, aim)
        except OSError:
            self._at(TURN_SECONDS, None)
            return
        self._open.add(connection)
        self.met.begun += 1
        selector.register(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, (self, connection))

    def _send(self, connection: AttackingConnection, selector: selectors.BaseSelector, now: float) -> None:
        if not connection.is_open:
            return
        try:
            sent = connection.send()
        except BlockingIOError:
            selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, (self, connection))
            return
        except OSError:
            if not connection.statuses:
                self.met.answers[CUT] += 1
            self._end(connection, selector)
            return
        self.met.sent_bytes += sent
        self._free_at = max(self._free_at, now) + sent / self._load.bytes_per_second
        if not connection.is_sent:
            self._sending.append(connection)
        elif not self._attack.holds:
            self._at(PATIENCE_SECONDS, connection)

    def _end(self, connection: AttackingConnection, selector: selectors.BaseSelector) -> None:
        """Ends a connection, in whose place another begins."""
        if connection.is_open:
            self._close(connection, selector)
            self._at(TURN_SECONDS, None)

    def _close(self, connection: AttackingConnection, selector: selectors.BaseSelector) -> None:
        self._open.discard(connection)
        with suppress(KeyError):  # of one that is full
            selector.unregister(connection.socket)
        connection.close()

    def _at(self, seconds: float, connection: AttackingConnection | None) -> None:
        heappush(self._timers, (time.monotonic() + seconds, next(self._ties), connection))


def _attack(attackers: Sequence[Attackers], until: socket.socket | int) -> None:
    """Attacks until this can be read, which happens when its other end is closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(until, selectors.EVENT_READ, None)
        is_over = False
        while not is_over:
            seconds = min(each.turn(selector) for each in attackers)
            for key, events in selector.select(seconds):
                if key.data is None:
                    is_over = True
                elif key.data[1].is_open:
                    key.data[0].ready(key.data[1], events, selector)
        for each in attackers:
            each.stop(selector)


def _main(loads: Sequence[Load]) -> None:
    with suppress(OSError):
        os.nice(NICENESS)
    attackers = [Attackers(load) for load in loads]
    _attack(attackers, sys.stdin.fileno())
    print(json.dumps([vars(each.met) for each in attackers]))  # noqa: T201 - read by the process that started it


if __name__ == "__main__":
    _main([Load(**{**each, "keys": tuple(each["keys"])}) for each in json.loads(sys.argv[1])])
