"""What people who click cost the calls beside them: the gateway's share of a call, with and without them.

Rounds with people and without take turns: pages are work of another process, on the same cores unless
`server.worker_cores` says otherwise. Half of the people are customers in the portal, half operators in the console.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import Family, pids_running
from benchmarks.overhead import buckets, quantile
from benchmarks.pages.visitors import PATIENCE_SECONDS, People, console_of, portal_of
from benchmarks.peers import nginx, ours
from benchmarks.peers.load import CONNECTIONS, Case, Sample, drive

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
_CORE_OF_CALLS = 0
_PORTAL = "portal: {url: http://127.0.0.1}\n"

Round = tuple[float, ...]
_COLUMNS = ("p50 ms", "p99 ms", "p99 ms of the client", "the proxy waits for a core, µs a call", "Valkey waits")


def measure(
    *,
    people: int,
    rounds: int,
    seconds: int,
    reading_seconds: float,
    calls_per_second: int,
    only: str,
    is_first: bool,
    is_apart: bool,
) -> None:
    """Prints the medians of both kinds of rounds, and the ratios of their p99. `only` is the pages that people read.

    `is_first` gives calls a core whenever they can use one: what is left then is what pages cost the loop of calls.
    `is_apart` gives them a core for themselves, with those who make and answer them.
    """
    alone: list[Round] = []
    beside: list[Round] = []
    pages: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        more = f", worker_cores: [{_CORE_OF_CALLS}]" if is_apart else ""
        upstream = stack.enter_context(nginx.upstream(folder))
        contender, printed = stack.enter_context(ours.serving(folder, upstream, more_routes=_PORTAL, more_server=more))
        calls = replace(_CALL, pause_ms=round(1000 * CONNECTIONS / calls_per_second))
        on_path = (contender.processes, contender.behind["Valkey"])
        answering = pids_running(Family.of(os.getpid()), "nginx")
        if is_first:
            _put_first(*on_path, answering)
        if is_apart:
            _put_apart(answering)

        def load() -> Sample:
            with _first() if is_first else _apart() if is_apart else nullcontext():
                return drive(contender, calls, folder, seconds=seconds)

        def time_calls() -> Round:
            before = buckets(printed["admin_url"])
            waited = [each.waited_seconds() for each in on_path]
            sample = load()
            waits = [
                1e6 * (each.waited_seconds() - since) / (sample.requests_per_second * seconds)
                for each, since in zip(on_path, waited, strict=True)
            ]
            after = buckets(printed["admin_url"])
            counted = [(bound, count - before.get(bound, 0.0)) for bound, count in after.items()]
            return 1000 * quantile(counted, 0.5), 1000 * quantile(counted, 0.99), sample.p99_ms, *waits

        browsers = _browsers(printed, people, only=only)
        time_calls()  # connections, caches
        for _ in range(rounds):
            alone.append(time_calls())
            visitors = People(browsers, reading_seconds=reading_seconds)
            with visitors.clicking():
                beside.append(time_calls())
            pages += visitors.seconds
    print(f"{calls_per_second:,} calls/s, medians of {rounds} rounds (spread)\n")
    _print_rounds(alone, beside, people=people)
    print(f"{len(pages):,} pages, p50 {1000 * statistics.median(pages):.0f} ms")


def _print_rounds(alone: list[Round], beside: list[Round], *, people: int) -> None:
    print(f"| calls | {' | '.join(_COLUMNS)} |\n|---|{'---|' * len(_COLUMNS)}")
    print(_row("alone", alone))
    print(_row(f"beside {people} people", beside))
    ratios = [
        _shown([there[column] / here[column] for there, here in zip(beside, alone, strict=True)]) for column in (1, 2)
    ]
    print(f"\nthe p99 beside them {ratios[0]}, of the client {ratios[1]}, times that of the round before; ", end="")


def _put_first(*families: Family) -> None:
    """By a real-time priority: the scheduler then gives them any core that does other work."""
    for pid in frozenset[int]().union(*(family.pids for family in families)):
        for task in Path(f"/proc/{pid}/task").iterdir():
            _schedule(int(task.name), os.SCHED_RR, priority=1)


def _put_apart(answering: Family) -> None:
    """Those who answer calls have the core of the calls, and what this process starts the others."""
    for pid in answering.pids:
        os.sched_setaffinity(pid, {_CORE_OF_CALLS})
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {_CORE_OF_CALLS})


@contextmanager
def _first() -> Iterator[None]:
    """For what this thread starts meanwhile."""
    _schedule(0, os.SCHED_RR, priority=1)
    try:
        yield
    finally:
        _schedule(0, os.SCHED_OTHER, priority=0)


@contextmanager
def _apart() -> Iterator[None]:
    """For what this thread starts meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CORE_OF_CALLS})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _schedule(thread: int, policy: int, *, priority: int) -> None:
    try:
        os.sched_setscheduler(thread, policy, os.sched_param(priority))
    except PermissionError:
        raise SystemExit("--first needs CAP_SYS_NICE") from None


def _browsers(printed: dict[str, Any], people: int, *, only: str) -> list[tuple[httpx.Client, Sequence[str]]]:
    headers = {"authorization": f"Bearer {printed['admin_token']}"}
    with httpx.Client(base_url=f"{printed['admin_url']}/admin/v1", headers=headers, timeout=PATIENCE_SECONDS) as admin:
        found = admin.get("/users", params={"email": "ok@example.com"}).raise_for_status().json()["data"][0]["id"]
    operators = {"portal": 0, "console": people}.get(only, people // 2)
    customers = [(portal_of(printed, found), _PORTAL_PAGES) for _ in range(people - operators)]
    return customers + [(console_of(printed), _CONSOLE_PAGES) for _ in range(operators)]


def _row(name: str, rounds: list[Round]) -> str:
    return f"| {name} | {' | '.join(_shown(list(each)) for each in zip(*rounds, strict=True))} |"


def _shown(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"
