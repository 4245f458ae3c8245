"""`python -m benchmarks.peers [--only NAME ...] [--case NAME ...] [--rounds 5] [--seconds 4] [--python PATH ...]`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.machine import allow_many_files
from benchmarks.peers import nginx, ours, packaged, report, same_work
from benchmarks.peers.contender import Contender, PeerUnavailableError
from benchmarks.peers.load import CASES, CONNECTIONS, Sample, drive

_Start = Callable[[Path, int], AbstractContextManager[Contender]]

_STARTS: dict[str, _Start] = {
    "nginx": nginx.bare,
    "lua": nginx.lua,
    "lua-same": same_work.before_the_answer,
    "lua-later": same_work.behind_the_answer,
    "envoy": packaged.envoy,
    "traefik": packaged.traefik,
    "litellm": packaged.litellm,
    "portkey": packaged.portkey,
    "gateway": ours.gateway,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_STARTS, default=list(_STARTS))
    parser.add_argument("--case", nargs="+", choices=[each.name for each in CASES], default=[c.name for c in CASES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument(
        "--python",
        nargs="+",
        type=os.path.abspath,
        default=[sys.executable],
        help="the Pythons by which the gateway runs, each a contender",
    )
    parser.add_argument("--chart", type=Path, help="where to write the SVG")
    given = parser.parse_args()
    allow_many_files()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        contenders: list[Contender] = []
        for name, title, start in _chosen(given.only, given.python):
            own_folder = folder / str(len(contenders))
            own_folder.mkdir()
            try:
                contender = stack.enter_context(start(own_folder, upstream))
                contenders.append(replace(contender, name=title or contender.name))
            except PeerUnavailableError as missing:
                print(f"{name} is left out: {missing}", file=sys.stderr)
        samples = _rounds(contenders, given, folder)
        report.markdown(samples, rounds=given.rounds, seconds=given.seconds, connections=given.connections)
        if given.chart and "small JSON" in samples:
            report.chart(samples["small JSON"], given.chart)


def _chosen(names: list[str], pythons: list[str]) -> Iterator[tuple[str, str | None, _Start]]:
    """Whom to start, and by what title where its own would be that of another too."""
    for name in names:
        if name != "gateway" or pythons == [sys.executable]:
            yield name, None, _STARTS[name]
            continue
        for python in pythons:
            yield name, f"gateway by {python}", partial(ours.gateway, python=python)


def _rounds(contenders: list[Contender], given: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[Sample]]]:
    """By case and contender: one sample a round, all contenders taking turns; the first round only warms up."""
    samples: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for case in (each for each in CASES if each.name in given.case):
        taking_part = [each for each in contenders if case.name in each.cases]
        for number in range(given.rounds + 1):
            for each in taking_part:
                sample = drive(
                    each, case, folder, seconds=given.seconds if number else 0, connections=given.connections
                )
                if number:
                    samples[case.name][each.name].append(sample)
    return samples


if __name__ == "__main__":
    main()
