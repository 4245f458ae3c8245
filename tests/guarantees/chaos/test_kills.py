"""kill -9 of gateways, worker and Valkey, at named moments and at random: no call is lost, doubled or still held."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from gateway.meter.scripts import ADMIT, SETTLE
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.faults.records import violations
from tests.guarantees.faults.traps import Moment, Trap
from tests.guarantees.simulation.installation import Installation, installed
from tests.support.sampling import IS_FULL, scaled, seeded_random

CLIENTS = 8
PAUSE_SECONDS = 0.02
MOMENT_SECONDS = (
    10.0  # for a moment to come: the worker lets entries gather, and a killed part needs its time to return
)
RANDOM_SECONDS = 0.4
# A check in between takes half a minute, for that is how long the holds of a dead gateway last.
KILLS_PER_CHECK = 100

GATEWAY_MOMENTS = (
    ("redis", Moment("before it asks for an admission", (ADMIT.sha,))),
    ("redis", Moment("before it hears of an admission", (ADMIT.sha,), is_answered=True)),
    ("redis", Moment("before it settles", (SETTLE.sha,))),
    ("redis", Moment("before it hears that it has settled", (SETTLE.sha,), is_answered=True)),
    ("upstream", Moment("before the upstream has the request", (b"POST",))),
    ("upstream", Moment("before it hears the upstream's answer", (b"POST",), is_answered=True)),
)
WORKER_MOMENTS = (
    ("redis", Moment("before it reads the journal", (b"XRANGE",))),
    ("redis", Moment("before it has read the journal", (b"XRANGE",), is_answered=True)),
    ("postgres", Moment("before it copies", (b"FROM STDIN",))),
    ("postgres", Moment("before it commits", (b"FROM STDIN", b"COMMIT"))),
    ("postgres", Moment("before it hears of the commit", (b"FROM STDIN", b"COMMIT"), is_answered=True)),
    ("redis", Moment("before it trims the journal", (b"XTRIM",))),
    ("redis", Moment("before it hears of the trimming", (b"XTRIM",), is_answered=True)),
)
VALKEY_MOMENTS = (
    ("gateway-1 redis", Moment("before it hears of an admission", (ADMIT.sha,))),
    ("gateway-1 redis", Moment("after an admission that nobody hears of", (ADMIT.sha,), is_answered=True)),
    ("gateway-2 redis", Moment("before it hears of a settlement", (SETTLE.sha,))),
    ("gateway-2 redis", Moment("after a settlement that nobody hears of", (SETTLE.sha,), is_answered=True)),
    ("worker redis", Moment("before it trims", (b"XTRIM",))),
    ("worker redis", Moment("after a trimming that nobody hears of", (b"XTRIM",), is_answered=True)),
)


@dataclass(frozen=True, slots=True)
class Kill:
    """The kill of a part, at a moment on a wire or at a random time."""

    part: str
    wire: str = ""
    moment: Moment | None = None

    def __str__(self) -> str:
        return f"{self.part} {self.moment or 'at random'}"


NAMED = (
    *(Kill(part, f"{part} {end}", moment) for part in ("gateway-1", "gateway-2") for end, moment in GATEWAY_MOMENTS),
    *(Kill("worker", f"worker {end}", moment) for end, moment in WORKER_MOMENTS),
    *(Kill("valkey", wire, moment) for wire, moment in VALKEY_MOMENTS),
)
AT_RANDOM = tuple(Kill(part) for part in ("gateway-1", "gateway-2", "worker", "valkey"))


async def test_kills_lose_double_and_hold_nothing(tmp_path: Path, own_database_url: str) -> None:
    luck = seeded_random("kills")
    done: Counter[str] = Counter()
    async with installed(tmp_path, database_url=own_database_url, chance=luck, slowness_seconds=0.02) as installation:
        for kills in _batches(luck):
            async with installation.callers.calling(CLIENTS, pause_seconds=PAUSE_SECONDS):
                for kill in kills:
                    done[await _strike(installation, kill, luck)] += 1
            found = await installation.records()
            assert violations(found) == []
            measured.append(_wait_for_refusals(installation, done, rows=len(found.rows)))


def _batches(luck: Random) -> Iterator[list[Kill]]:
    """Batches of kills; the short version kills gateways first, so that their leases run out meanwhile."""
    if not IS_FULL:
        named = luck.sample(NAMED, len(NAMED))
        yield sorted([*named, *AT_RANDOM], key=lambda kill: not kill.part.startswith("gateway"))[6:]
        return
    for _ in range(scaled(suite=1, full=1_000) // KILLS_PER_CHECK):
        yield [luck.choice(luck.choice((NAMED, AT_RANDOM))) for _ in range(KILLS_PER_CHECK)]


async def _strike(installation: Installation, kill: Kill, luck: Random) -> str:
    """Kills the part and says how: at its moment, or without it if the moment does not come in time."""
    part = installation.parts[kill.part]
    await part.restored()
    if kill.moment is None:
        await asyncio.sleep(luck.uniform(0, RANDOM_SECONDS))
        part.kill()
        return str(kill)
    trap = Trap(kill.moment, part.kill)
    with trap.set_on(installation.wires[kill.wire]):
        try:
            await asyncio.wait_for(trap.sprung.wait(), MOMENT_SECONDS)
        except TimeoutError:
            part.kill()
            return f"{kill} (missed)"
    return str(kill)


def _wait_for_refusals(installation: Installation, done: Counter[str], *, rows: int) -> str:
    statuses = ", ".join(f"{count} of {status}" for status, count in installation.callers.statuses().most_common())
    points = "\n".join(f"  {count:4} {name}" for name, count in sorted(done.items()))
    slowest = f"slowest {installation.callers.slowest_seconds:.1f} s"
    return f"{done.total()} kills, {rows} rows, answers {statuses}, {slowest}\n{points}"
