"""`make bench-check`: whether a metered call costs more than it did, by its ratio to nginx + Lua that does the same.

`python -m benchmarks.check [--rounds 9] [--seconds 2] [--record]`. The speed of a machine changes by the hour, the
ratio of two CPU times taken in turn hardly does. It fails where the median ratio is above the highest round of the
recorded run, `benchmarks/recorded.json`. `--record` writes that file: after a change that is meant to cost, or on
another machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers import nginx, ours, same_work
from benchmarks.peers.contender import PeerUnavailableError
from benchmarks.peers.load import CASES, drive

RECORDED = Path(__file__).with_name("recorded.json")
_CASE = next(case for case in CASES if case.name == "small JSON")
_CONNECTIONS = 32
_PATIENT = "redis: {timeout: 5s}\n"  # lets a busy machine be slow: a refused call would be a cheap one


@dataclass(frozen=True, slots=True)
class Ratio:
    """The gateway's CPU of a metered call by the peer's: the median of rounds, and the lowest and highest round."""

    date: str
    machine: str
    ratio: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.lowest:.3f} to {self.highest:.3f}) on {self.date}, {self.machine}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.check", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    try:
        measured = _measure(rounds=given.rounds, seconds=given.seconds)
    except PeerUnavailableError as missing:
        sys.exit(f"{missing}\nDebian: apt-get install nginx-light libnginx-mod-http-lua lua-nginx-redis wrk")
    print(f"measured  {measured}")
    if given.record:
        RECORDED.write_text(json.dumps(asdict(measured), indent=2) + "\n")
        return
    recorded = Ratio(**json.loads(RECORDED.read_text()))
    print(f"recorded  {recorded}")
    if failure := regression(measured, recorded):
        sys.exit(failure)


def regression(measured: Ratio, recorded: Ratio) -> str | None:
    """Why the measured ratio is worse than the recorded one; None where it is not, as far as rounds differ anyway."""
    if measured.ratio <= recorded.highest:
        return None
    more = (measured.ratio / recorded.ratio - 1) * 100
    return f"a metered call costs {more:.0f} % more than recorded, and more than in its highest round"


def _measure(*, rounds: int, seconds: int) -> Ratio:
    """Raises PeerUnavailableError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        peer, own = folder / "peer", folder / "own"
        peer.mkdir()
        own.mkdir()
        sides = [
            stack.enter_context(same_work.before_the_answer(peer, upstream)),
            stack.enter_context(ours.serving(own, upstream, more_routes=_PATIENT))[0],
        ]
        ratios = []
        for number in range(rounds + 1):
            turn = sides if number % 2 == 0 else sides[::-1]
            cost = {
                each.name: drive(each, _CASE, folder, seconds=seconds, connections=_CONNECTIONS).cpu_us for each in turn
            }
            if number:  # the first one warms up
                ratios.append(cost[sides[1].name] / cost[sides[0].name])
    lowest, middle, highest = min(ratios), statistics.median(ratios), max(ratios)
    return Ratio(f"{datetime.now(UTC):%Y-%m-%d}", describe(), round(middle, 3), round(lowest, 3), round(highest, 3))


if __name__ == "__main__":
    main()
