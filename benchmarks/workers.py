"""What a second worker adds: `python -m benchmarks.workers [--share 0.2] [--rounds 5] [--seconds 4]`.

Each worker process is kept to a share of one core, so that the load generator, the upstream and the stores have what
they need of the others: without that, two workers on a small machine only show how few cores it has.
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
from benchmarks.peers.contender import Contender, PeerUnavailableError
from benchmarks.peers.load import Case, Sample, drive
from benchmarks.quota import share_of_a_core

_CALL = Case("small JSON", "/call")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.workers", description=__doc__)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    given = parser.parse_args()
    try:
        one, two = _measure(given)
    except PeerUnavailableError as missing:
        print(f"not measured: {missing}", file=sys.stderr)
        return
    gains = [both.requests_per_second / single.requests_per_second for single, both in zip(one, two, strict=True)]
    print(
        f"{describe()}; each worker kept to {given.share:.2f} of a core; medians of {given.rounds} interleaved rounds\n"
    )
    print("| workers | requests/s | CPU µs | against one (spread) |")
    print("|---|---|---|---|")
    print(f"| 1 | {_rate(one):,.0f} | {_cpu(one):.1f} | 1.00 |")
    print(
        f"| 2 | {_rate(two):,.0f} | {_cpu(two):.1f} "
        f"| {statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f}) |"
    )


def _measure(given: argparse.Namespace) -> tuple[list[Sample], list[Sample]]:
    """Samples of one worker and of two, in rounds; the first round only warms up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        samples: tuple[list[Sample], list[Sample]] = [], []
        contenders = [_gateway(workers, folder, upstream, stack, given.share) for workers in (1, 2)]
        for number in range(given.rounds + 1):
            for contender, taken in zip(contenders, samples, strict=True):
                sample = drive(contender, _CALL, folder, seconds=given.seconds)
                if number:
                    taken.append(sample)
        return samples


def _gateway(workers: int, folder: Path, upstream: int, stack: ExitStack, share: float) -> Contender:
    own = folder / f"{workers} workers"
    own.mkdir()
    contender = stack.enter_context(ours.gateway(own, upstream, workers=workers))
    for pid in contender.processes.pids:
        stack.enter_context(share_of_a_core(pid, share))
    return contender


def _rate(samples: list[Sample]) -> float:
    return statistics.median(sample.requests_per_second for sample in samples)


def _cpu(samples: list[Sample]) -> float:
    return statistics.median(sample.cpu_us for sample in samples)


if __name__ == "__main__":
    main()
