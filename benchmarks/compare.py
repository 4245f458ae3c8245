"""What a call costs by this checkout beside what it costs by another: CPU of the proxy process and calls a second.

`python -m benchmarks.compare BASE [--launches 8] [--rounds 8] [--seconds 2]`. BASE is a checkout with its own `.venv`.
Each launch starts both gateways with stores of their own before one upstream, then loads them in turn: two launches of
the same code differ by more than a percent, and the machine differs from minute to minute by much more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import nginx, ours
from benchmarks.peers.contender import Contender
from benchmarks.peers.load import Case, Sample, drive

# The timeout lets a busy machine be slow: a refused call would be a cheap one.
_MORE = """\
  - {name: free, match: {path: /free, methods: [GET]}, upstream: static, usage_type: call, price: {credits: 0}}
redis: {timeout: 5s}
"""
_CASES = (
    Case("metered", "/call"),
    Case("metered, fields vary", "/call", varies=True),
    Case("forwarded, credits 0", "/free"),
)

Pairs = dict[str, list[tuple[Sample, Sample]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("--launches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=2)
    given = parser.parse_args()
    launches = [_launch(given, is_base_first=number % 2 == 0) for number in range(given.launches)]
    print(f"{describe()}; {given.launches} launches of both, {given.rounds} rounds of {given.seconds} s in each\n")
    columns = "ratio of the minima | ratio of the medians (spread) | calls/s, ratio (spread)"
    print(f"| call | base, CPU µs | this, CPU µs | {columns} |")
    print("|---|---|---|---|---|---|")
    for case in _CASES:
        print(_row(case.name, [launch[case.name] for launch in launches]))


def _launch(given: argparse.Namespace, *, is_base_first: bool) -> Pairs:
    """What was measured of the base and by this checkout, for each round of each case."""
    pythons = [str((given.base / ".venv/bin/python").absolute()), sys.executable]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        sides: dict[str, Contender] = {}
        for python in pythons if is_base_first else reversed(pythons):
            place = folder / str(len(sides))
            place.mkdir()
            serving = ours.serving(place, upstream, python=python, more_routes=_MORE)
            sides[python] = stack.enter_context(serving)[0]
        base, new = (sides[python] for python in pythons)
        pairs: Pairs = {case.name: [] for case in _CASES}
        for number in range(given.rounds + 1):
            for case in _CASES:
                pair = _pair(base, new, case, folder, seconds=given.seconds, is_base_first=number % 2 == 0)
                if number:
                    pairs[case.name].append(pair)
        return pairs


def _pair(
    base: Contender, new: Contender, case: Case, folder: Path, *, seconds: int, is_base_first: bool
) -> tuple[Sample, Sample]:
    if is_base_first:
        of_base = drive(base, case, folder, seconds=seconds)
        return of_base, drive(new, case, folder, seconds=seconds)
    of_new = drive(new, case, folder, seconds=seconds)
    return drive(base, case, folder, seconds=seconds), of_new


def _row(name: str, launches: list[list[tuple[Sample, Sample]]]) -> str:
    costs = [[[sample.cpu_us for sample in side] for side in zip(*pairs, strict=True)] for pairs in launches]
    medians = [[statistics.median(side) for side in sides] for sides in costs]
    minima = [[min(side) for side in sides] for sides in costs]
    bases, news = zip(*medians, strict=True)
    lowest = [sum(side) for side in zip(*minima, strict=True)]
    rates = [
        statistics.median(new.requests_per_second / base.requests_per_second for base, new in pairs)
        for pairs in launches
    ]
    return (
        f"| {name} | {statistics.mean(bases):.1f} | {statistics.mean(news):.1f} | {lowest[1] / lowest[0]:.3f} "
        f"| {_spread([new / base for base, new in medians])} | {_spread(rates)} |"
    )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
