"""What a call costs by this checkout beside what it costs by another: CPU of the proxy process, as a ratio.

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
from benchmarks.peers.load import Case, drive

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

Costs = dict[str, list[tuple[float, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("--launches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=2)
    given = parser.parse_args()
    minima: Costs = {case.name: [] for case in _CASES}
    medians: Costs = {case.name: [] for case in _CASES}
    for number in range(given.launches):
        for name, costs in _launch(given, is_base_first=number % 2 == 0).items():
            base, new = zip(*costs, strict=True)
            minima[name].append((min(base), min(new)))
            medians[name].append((statistics.median(base), statistics.median(new)))
    print(f"{describe()}; {given.launches} launches of both, {given.rounds} rounds of {given.seconds} s in each\n")
    print("| call | base, CPU µs | this, CPU µs | ratio of the minima | ratio of the medians (spread) |")
    print("|---|---|---|---|---|")
    for case in _CASES:
        print(_row(case.name, minima[case.name], medians[case.name]))


def _launch(given: argparse.Namespace, *, is_base_first: bool) -> Costs:
    """CPU µs of a call by the base and by this checkout, for each round of each case."""
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
        costs: Costs = {case.name: [] for case in _CASES}
        for number in range(given.rounds + 1):
            for case in _CASES:
                pair = _pair(base, new, case, folder, seconds=given.seconds, is_base_first=number % 2 == 0)
                if number:
                    costs[case.name].append(pair)
        return costs


def _pair(
    base: Contender, new: Contender, case: Case, folder: Path, *, seconds: int, is_base_first: bool
) -> tuple[float, float]:
    if is_base_first:
        of_base = drive(base, case, folder, seconds=seconds).cpu_us
        return of_base, drive(new, case, folder, seconds=seconds).cpu_us
    of_new = drive(new, case, folder, seconds=seconds).cpu_us
    return drive(base, case, folder, seconds=seconds).cpu_us, of_new


def _row(name: str, minima: list[tuple[float, float]], medians: list[tuple[float, float]]) -> str:
    bases, news = zip(*medians, strict=True)
    lowest = [sum(side) for side in zip(*minima, strict=True)]
    ratios = [new / base for base, new in medians]
    return (
        f"| {name} | {statistics.mean(bases):.1f} | {statistics.mean(news):.1f} | {lowest[1] / lowest[0]:.3f} "
        f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


if __name__ == "__main__":
    main()
