"""What a call costs with more gateways and more masters: `python -m benchmarks.scale [--quick]`.

Each installation has so many `gateway proxy`, a cluster of so many Valkey masters, one `gateway worker` (which writes
usage) and a database of its own on one PostgreSQL, all on this machine. Installations are called in turn, each gateway
equally often, and seldom enough that the cores suffice. What processes take while nobody calls is measured beside and
left out. A cost that stays the same says that the part scales with its number; the writer and PostgreSQL are single.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Family, allow_many_files, describe
from benchmarks.peers import nginx
from benchmarks.scale import sizes
from benchmarks.scale.cluster import FIRST_PORT
from benchmarks.scale.installation import Installation, installed
from gateway.embedded.stores import Stores

SHAPES = ((1, 1), (2, 1), (2, 3), (4, 3))
CALLING = 200
SETTLING_SECONDS = 2.0
PARTS = ("gateways", "Valkey", "usage writer", "PostgreSQL")


@dataclass(frozen=True, slots=True)
class Sample:
    """Microseconds of CPU a call, by part; and the share of the calls' CPU at Valkey that the busiest master has."""

    calls_per_second: float
    us: dict[str, float]
    busiest_share: float


class Meter:
    """CPU of an installation's parts; PostgreSQL is that of all installations."""

    def __init__(self, installation: Installation, postgres: int) -> None:
        self._parts = {**installation.parts, "PostgreSQL": Family.of(postgres)}
        self._masters = installation.cluster.processes

    def read(self) -> dict[str, float]:
        return {name: family.cpu_seconds() for name, family in self._parts.items()}

    def read_masters(self) -> list[float]:
        return [family.cpu_seconds() for family in self._masters]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--calls-per-second", type=int, default=400, help="of each gateway")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--accounts", type=int, default=10_000, help="of which the bytes are measured")
    parser.add_argument("--quick", action="store_true", help="2 shapes, 2 rounds of 2 s, 1,000 accounts")
    given = parser.parse_args()
    shapes: tuple[tuple[int, int], ...] = SHAPES
    if given.quick:
        given.rounds, given.seconds, given.accounts, shapes = 2, 2, 1_000, (SHAPES[0], SHAPES[2])
    allow_many_files()
    asyncio.run(_run(given, shapes))


async def _run(given: argparse.Namespace, shapes: tuple[tuple[int, int], ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with await Stores.open(Path(folder) / "stores") as stores:
            pid = int((Path(folder) / "stores" / "postgres" / "postmaster.pid").read_text().split()[0])
            await asyncio.to_thread(_measure, Path(folder), stores.database_url, pid, given, shapes)


def _measure(
    folder: Path, database_url: str, postgres: int, given: argparse.Namespace, shapes: tuple[tuple[int, int], ...]
) -> None:
    server, port = database_url.rpartition("/")[0], FIRST_PORT
    with ExitStack() as stack:
        upstream, found = stack.enter_context(nginx.upstream(folder)), []
        for number, (gateways, masters) in enumerate(shapes):
            one = installed(
                folder / str(number),
                gateways=gateways,
                masters=masters,
                first_port=port,
                upstream=upstream,
                database_url=f"{server}/scale_{number}",
            )
            found.append(stack.enter_context(one))
            port += masters
        samples, idle = _rounds(found, postgres, given)
        print(f"{describe()}; medians of {given.rounds} interleaved rounds of {given.seconds} s\n")
        _print_costs(found, samples)
        _print_idle(found, idle)
        sizes.report(found[0], accounts=given.accounts)


def _rounds(
    found: list[Installation], postgres: int, given: argparse.Namespace
) -> tuple[list[list[Sample]], list[dict[str, float]]]:
    """The samples of each installation; and cores that its parts take while nobody calls."""
    keys = [each.add_keys(CALLING) for each in found]
    for installation, file in zip(found, keys, strict=True):  # each key in each gateway's cache, each account loaded
        installation.call(file, seconds=2)
    time.sleep(SETTLING_SECONDS)
    meters = [Meter(each, postgres) for each in found]
    idle = _idle(meters, seconds=given.seconds)
    samples: list[list[Sample]] = [[] for _ in found]
    for _ in range(given.rounds):
        for number, installation in enumerate(found):
            before, masters, began = meters[number].read(), meters[number].read_masters(), time.monotonic()
            calls = installation.call(keys[number], seconds=given.seconds, calls_per_second=given.calls_per_second)
            calling = time.monotonic() - began
            time.sleep(SETTLING_SECONDS)  # the rows of the last calls are written
            elapsed = time.monotonic() - began
            spent = {name: after - before[name] for name, after in meters[number].read().items()}
            us = {name: (seconds - idle[number][name] * elapsed) / calls * 1e6 for name, seconds in spent.items()}
            each = [after - earlier for after, earlier in zip(meters[number].read_masters(), masters, strict=True)]
            samples[number].append(Sample(calls / calling, us, max(each) / max(sum(each), 1e-9)))
    return samples, idle


def _idle(meters: list[Meter], *, seconds: int) -> list[dict[str, float]]:
    before = [meter.read() for meter in meters]
    time.sleep(2 * seconds)
    return [
        {name: (after - earlier[name]) / (2 * seconds) for name, after in meter.read().items()}
        for meter, earlier in zip(meters, before, strict=True)
    ]


def _print_costs(found: list[Installation], samples: list[list[Sample]]) -> None:
    print(f"| gateways and masters | calls/s | {', µs | '.join(PARTS)}, µs | of Valkey's, the busiest master |")
    print("|---|---|---|---|---|---|---|")
    for installation, measured in zip(found, samples, strict=True):
        costs = [_with_ratio([sample.us[part] for sample in measured], samples[0], part) for part in PARTS]
        rate = statistics.median(sample.calls_per_second for sample in measured)
        share = statistics.median(sample.busiest_share for sample in measured)
        print(f"| {installation.name} | {rate:,.0f} | {' | '.join(costs)} | {share:.2f} |", flush=True)
    print("\nbehind each cost: against the first installation, and the spread of that\n")


def _with_ratio(costs: list[float], base: list[Sample], part: str) -> str:
    ratios = [cost / sample.us[part] for cost, sample in zip(costs, base, strict=True)]
    low, high = min(ratios), max(ratios)
    return f"{statistics.median(costs):.1f}, {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def _print_idle(found: list[Installation], idle: list[dict[str, float]]) -> None:
    print("| nobody calls | gateway, % of a core | master | usage writer |\n|---|---|---|---|")
    for installation, cores in zip(found, idle, strict=True):
        gateway = cores["gateways"] / installation.gateways
        master = cores["Valkey"] / len(installation.cluster.masters)
        print(f"| {installation.name} | {gateway:.2%} | {master:.2%} | {cores['usage writer']:.2%} |", flush=True)
    print(f"\nPostgreSQL with all {len(found)} of them: {idle[0]['PostgreSQL']:.2%} of a core\n")


if __name__ == "__main__":
    main()
