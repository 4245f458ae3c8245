"""What people who click cost the calls beside them: the gateway's share of a call, with and without them.

Rounds with people and without take turns, at a quarter of the calls that the gateway can serve: pages are work of
another process, on the same cores. Half of the people are customers in the portal, half operators in the console.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import Family
from benchmarks.overhead import buckets, quantile
from benchmarks.pages.visitors import PATIENCE_SECONDS, People, console_of, portal_of
from benchmarks.peers import nginx, ours
from benchmarks.peers.load import CONNECTIONS, Case, drive

_CALL = Case("small JSON", "/call")
_PORTAL_PAGES: Sequence[str] = (
    "/portal",
    "/portal/usage",
    "/portal/keys",
    "/portal/plan",
    "/portal/billing",
    "/portal/account",
)
_CONSOLE_PAGES: Sequence[str] = (
    "/console",
    "/console/usage",
    "/console/plans",
    "/console/money",
    "/console/audit",
    "/console/system",
)
_PORTAL = "portal: {url: http://127.0.0.1}\n"

Round = tuple[float, ...]


def measure(*, people: int, rounds: int, seconds: int, reading_seconds: float, is_apart: bool) -> None:
    """Prints the medians of both kinds of rounds, and the ratio of their p99.

    `is_apart` gives calls a core of their own: what is left then is what pages cost the loop of calls itself.
    """
    alone: list[Round] = []
    beside: list[Round] = []
    pages: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        contender, printed = stack.enter_context(ours.serving(folder, upstream, more_routes=_PORTAL))
        most = drive(contender, _CALL, folder, seconds=seconds).requests_per_second
        calls = replace(_CALL, pause_ms=round(CONNECTIONS / most * 4 * 1000))
        on_path = (contender.processes, contender.behind["Valkey"])
        if is_apart:
            _set_apart(on_path)

        def time_calls() -> Round:
            before = buckets(printed["admin_url"])
            waited = [each.waited_seconds() for each in on_path]
            rate = drive(contender, calls, folder, seconds=seconds).requests_per_second
            waits = [
                1e6 * (each.waited_seconds() - since) / (rate * seconds)
                for each, since in zip(on_path, waited, strict=True)
            ]
            after = buckets(printed["admin_url"])
            counted = [(bound, count - before.get(bound, 0.0)) for bound, count in after.items()]
            return 1000 * quantile(counted, 0.5), 1000 * quantile(counted, 0.99), *waits

        browsers = _browsers(printed, people)
        time_calls()  # connections, caches
        for _ in range(rounds):
            alone.append(time_calls())
            visitors = People(browsers, reading_seconds=reading_seconds)
            with visitors.clicking():
                beside.append(time_calls())
            pages += visitors.seconds
    ratios = [with_people[1] / without[1] for with_people, without in zip(beside, alone, strict=True)]
    print(f"{most / 4:,.0f} calls/s, medians of {rounds} rounds (spread)\n")
    print("| calls | p50 ms | p99 ms | the proxy waits for a core, µs a call | Valkey waits |\n|---|---|---|---|---|")
    print(_row("alone", alone))
    print(_row(f"beside {people} people", beside))
    print(f"\np99 beside them {_shown(ratios)} times that of the round before; ", end="")
    print(f"{len(pages):,} pages, p50 {1000 * statistics.median(pages):.0f} ms")


def _set_apart(on_path: Sequence[Family]) -> None:
    """The proxy and Valkey on the first core, all else of this benchmark, its load too, on the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("--apart needs two cores")
    calls = frozenset[int]().union(*(each.pids for each in on_path))
    for pid in Family.of(os.getpid()).pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {first} if pid in calls else others)


def _browsers(printed: dict[str, Any], people: int) -> list[tuple[httpx.Client, Sequence[str]]]:
    headers = {"authorization": f"Bearer {printed['admin_token']}"}
    with httpx.Client(base_url=f"{printed['admin_url']}/admin/v1", headers=headers, timeout=PATIENCE_SECONDS) as admin:
        found = admin.get("/users", params={"email": "ok@example.com"}).raise_for_status().json()["data"][0]["id"]
    customers = [(portal_of(printed, found), _PORTAL_PAGES) for _ in range((people + 1) // 2)]
    return customers + [(console_of(printed), _CONSOLE_PAGES) for _ in range(people // 2)]


def _row(name: str, rounds: list[Round]) -> str:
    return f"| {name} | {' | '.join(_shown(list(each)) for each in zip(*rounds, strict=True))} |"


def _shown(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"
