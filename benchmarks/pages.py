"""What people who click in the portal cost the calls beside them: the gateway's share of a call, with and without them.

`python -m benchmarks.pages [--people 20] [--rounds 5] [--seconds 8]`. Rounds with people and without take turns, at a
quarter of the calls that the gateway can serve: pages are work of another process, on the same cores. Each person
opens a page of the portal, signed in, reads it for a second or so, and opens the next.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from time import monotonic

import httpx

from benchmarks.machine import describe
from benchmarks.overhead import buckets, quantile
from benchmarks.peers import nginx, ours
from benchmarks.peers.load import CONNECTIONS, Case, drive

_CALL = Case("small JSON", "/call")
_PAGES = ("/portal", "/portal/usage", "/portal/keys", "/portal/plan", "/portal/billing", "/portal/account")
_PORTAL = "portal: {url: http://127.0.0.1}\n"  # its links name an address; the port is another
_READING_SECONDS = 1.0  # the mean
_PATIENCE_SECONDS = 30.0


class People:
    """Clicks of some people; `seconds` is how long each of their pages took."""

    def __init__(self, count: int, link_of: Mapping[int, str]) -> None:
        self.seconds: list[float] = []
        self._links = link_of
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._click, args=(number,)) for number in range(count)]

    @contextmanager
    def clicking(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join(_PATIENCE_SECONDS)

    def _click(self, number: int) -> None:
        chance, link = Random(number), self._links[number]  # noqa: S311 - the same clicks every time
        with httpx.Client(follow_redirects=True, timeout=_PATIENCE_SECONDS) as browser:
            root = str(browser.get(link).raise_for_status().url.join("/"))
            while not self._is_over.wait(chance.expovariate(1 / _READING_SECONDS)):
                began = monotonic()
                browser.get(root.rstrip("/") + chance.choice(_PAGES)).raise_for_status()
                self.seconds.append(monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pages", description=__doc__)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    given = parser.parse_args()
    alone: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    pages: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(nginx.upstream(folder))
        contender, printed = stack.enter_context(ours.serving(folder, upstream, more_routes=_PORTAL))
        most = drive(contender, _CALL, folder, seconds=given.seconds).requests_per_second
        calls = replace(_CALL, pause_ms=round(CONNECTIONS / most * 4 * 1000))

        def measure() -> tuple[float, float]:
            before = buckets(printed["admin_url"])
            drive(contender, calls, folder, seconds=given.seconds)
            after = buckets(printed["admin_url"])
            counted = [(bound, count - before.get(bound, 0.0)) for bound, count in after.items()]
            return 1000 * quantile(counted, 0.5), 1000 * quantile(counted, 0.99)

        measure()  # connections, caches
        for _ in range(given.rounds):
            alone.append(measure())
            people = People(given.people, _links(printed, given.people))
            with people.clicking():
                beside.append(measure())
            pages += people.seconds
    print(f"{describe()}; {most / 4:,.0f} calls/s, medians of {given.rounds} rounds (spread)\n")
    print("| calls | p50 ms | p99 ms |")
    print("|---|---|---|")
    print(_row("alone", alone))
    print(_row(f"beside {given.people} people", beside))
    print(f"\n{len(pages):,} pages, p50 {1000 * statistics.median(pages):.0f} ms")


def _links(printed: Mapping[str, str], count: int) -> dict[int, str]:
    """A link into the portal for each person."""
    headers = {"authorization": f"Bearer {printed['admin_token']}"}
    with httpx.Client(base_url=f"{printed['admin_url']}/admin/v1", headers=headers, timeout=_PATIENCE_SECONDS) as admin:
        found = admin.get("/users", params={"email": "ok@example.com"}).raise_for_status().json()["data"][0]["id"]
        asked = {"user_id": found}
        return {
            number: admin.post("/portal-sessions", json=asked).raise_for_status().json()["url"]
            for number in range(count)
        }


def _row(name: str, rounds: list[tuple[float, float]]) -> str:
    cells = (
        f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in zip(*rounds, strict=True)
    )
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
