"""Runs attacks on a gateway: so many connections at a time, so many bytes a second, always from one address.

`python -m tests.guarantees.attacks.attackers JSON` runs `Load`s in a process of its own until its input ends, so that
they take no time from the victim's, and prints what they met.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from urllib.parse import urlsplit

from tests.guarantees.attacks.kinds import BY_NAME, CUT, HELD, Aim

ADDRESS = "127.0.0.2"  # any of 127/8 is this machine's
NARROW_BYTES = 4096
TURN_SECONDS = 0.02


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


class Budget:
    """Bytes that all connections of a load share."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    async def take(self, size_bytes: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size_bytes / self._rate
        await asyncio.sleep(max(0.0, self._free_at - now))


class Attackers:
    """The connections of one load; each begins again once it is answered."""

    def __init__(self, load: Load) -> None:
        self.met = Met()
        self._load = load
        self._attack = BY_NAME[load.attack]
        self._budget = Budget(load.bytes_per_second)
        self._numbers = count()
        address = urlsplit(load.url)
        self._place = (address.hostname or "", address.port or 80)

    @asynccontextmanager
    async def attacking(self) -> AsyncIterator[Met]:
        """Attacks until the end of the block."""
        tasks = [asyncio.create_task(self._attack_on()) for _ in range(self._load.connections)]
        try:
            yield self.met
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attack_on(self) -> None:
        while True:
            number = next(self._numbers)
            seed = f"{self._load.seed} {self._attack.name} {number}"
            aim = Aim(self._load.keys[number % len(self._load.keys)], Random(seed))  # noqa: S311 - to be replayed
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    *self._place, local_addr=(ADDRESS, 0), limit=NARROW_BYTES
                )
                self.met.begun += 1
                try:
                    await self._serve(_Answers(reader, self.met.answers, reads=self._attack.reads), writer, aim)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(TURN_SECONDS)

    async def _serve(self, answers: _Answers, writer: asyncio.StreamWriter, aim: Aim) -> None:
        ended = asyncio.create_task(answers.read_all())
        sent = asyncio.create_task(self._send(writer, aim))
        try:
            await asyncio.wait((ended, sent), return_when=asyncio.FIRST_COMPLETED)
            if self._attack.holds:
                await asyncio.wait((ended,))
            else:
                await asyncio.wait((ended,), timeout=1.0)
        except asyncio.CancelledError:
            if self._attack.holds and not ended.done():
                self.met.answers[HELD] += 1
            raise
        finally:
            ended.cancel()
            sent.cancel()
            await asyncio.gather(ended, sent, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter, aim: Aim) -> None:
        with suppress(OSError):
            for piece in self._attack.pieces(aim):
                await self._budget.take(len(piece))
                writer.write(piece)
                await writer.drain()
                self.met.sent_bytes += len(piece)


class _Answers:
    """The heads of responses on one connection, counted by status."""

    def __init__(self, reader: asyncio.StreamReader, counted: Counter[str], *, reads: bool) -> None:
        self._reader = reader
        self._counted = counted
        self._reads = reads

    async def read_all(self) -> None:
        """Reads to the end of the connection; a connection that ends without a response counts as cut."""
        statuses = 0
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                statuses += 1
                self._counted[head[9:12].decode()] += 1
                await self._skip_body(head)
        if not statuses:
            self._counted[CUT] += 1

    async def _skip_body(self, head: bytes) -> None:
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
        if length is not None:
            await self._reader.readexactly(int(length.partition(b":")[2]))
        elif not self._reads:
            await asyncio.Event().wait()
        else:
            while await self._reader.read(NARROW_BYTES):
                pass


async def _main(loads: list[Load]) -> None:
    loop = asyncio.get_running_loop()
    attackers = [Attackers(load) for load in loads]
    ended = loop.run_in_executor(None, sys.stdin.read)
    runs = [each.attacking() for each in attackers]
    for run in runs:
        await run.__aenter__()
    await ended
    for run in runs:
        await run.__aexit__(None, None, None)
    print(json.dumps([vars(each.met) for each in attackers]))  # noqa: T201 - read by the process that started it


if __name__ == "__main__":
    asyncio.run(_main([Load(**{**each, "keys": tuple(each["keys"])}) for each in json.loads(sys.argv[1])]))
