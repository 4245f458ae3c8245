"""How long a metered call stays in the gateway, outside the upstream, at half of the calls that it can serve.

`python -m benchmarks.overhead [--rounds 5] [--seconds 5]`. By its own histogram, `gateway_overhead_seconds`, read as
Prometheus reads it: within a bucket calls are taken to be spread evenly.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import describe
from benchmarks.peers import nginx, ours
from benchmarks.peers.load import CONNECTIONS, Case, drive

_CALL = Case("small JSON", "/call")
_FLUSHED_SECONDS = 1.5  # a worker makes its counts visible twice a second


class Round(NamedTuple):
    most_per_second: float
    per_second: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        contender, printed = stack.enter_context(ours.serving(folder, upstream))
        rounds = []
        for number in range(given.rounds + 1):
            most = drive(contender, _CALL, folder, seconds=given.seconds).requests_per_second
            half = replace(_CALL, pause_ms=round(CONNECTIONS / most * 2 * 1000))
            before = buckets(printed["admin_url"])
            rate = drive(contender, half, folder, seconds=given.seconds).requests_per_second
            counted = [
                (bound, count - before.get(bound, 0.0)) for bound, count in buckets(printed["admin_url"]).items()
            ]
            if number:
                rounds.append(Round(most, rate, 1000 * quantile(counted, 0.5), 1000 * quantile(counted, 0.99)))
    print(f"{describe()}; medians of {given.rounds} rounds (spread)\n")
    print("| | |")
    print("|---|---|")
    for name, of in zip(
        ("most calls/s", "calls/s offered", "overhead p50 ms", "p99 ms"), zip(*rounds, strict=True), strict=True
    ):
        print(f"| {name} | {statistics.median(of):,.2f} ({min(of):,.2f} to {max(of):,.2f}) |")


def buckets(admin_url: str) -> dict[float, float]:
    """Calls by the upper bound of their bucket, in seconds, each with all below it."""
    time.sleep(_FLUSHED_SECONDS)
    found = text_string_to_metric_families(httpx.get(f"{admin_url}/metrics").text)
    samples = (sample for family in found for sample in family.samples)
    return {
        float(sample.labels["le"]): sample.value
        for sample in samples
        if sample.name == "gateway_overhead_seconds_bucket" and sample.labels["endpoint"] == "call"
    }


def quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """Seconds; the last finite bound for what lies behind it."""
    rank = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and bound != float("inf"):
            return lower + (bound - lower) * (rank - below) / max(count - below, 1.0)
        if bound != float("inf"):
            lower, below = bound, count
    return lower


if __name__ == "__main__":
    main()
