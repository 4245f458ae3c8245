"""How much memory a worker has after more and more metered calls, which should be as much as after the first ones.

`python -m benchmarks.memory [--calls 10000000] [--seconds 60]`: one row for each round of so many seconds.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import nginx, ours
from benchmarks.peers.load import Case, drive

_CALL = Case("small JSON", "/call", may_fail=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    print(f"{describe()}; metered calls on 64 connections\n")
    print("| calls | MiB | Valkey MiB | calls/s | refused |")
    print("|---|---|---|---|---|")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contender = stack.enter_context(ours.gateway(folder, stack.enter_context(nginx.upstream(folder))))
        valkey = contender.behind["Valkey"]
        calls = 0
        while calls < given.calls:
            sample = drive(contender, _CALL, folder, seconds=given.seconds)
            calls += round(sample.requests_per_second * given.seconds)
            print(
                f"| {calls:,} | {sample.resident_mib:.1f} | {valkey.resident_bytes() / 2**20:.0f} "
                f"| {sample.requests_per_second:,.0f} | {sample.refused} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
