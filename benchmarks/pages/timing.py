"""Times each page of the portal and the console on a database that is filled, as `gateway serve` serves them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, NamedTuple

import asyncpg
import httpx

from benchmarks.pages.visitors import console_of, portal_of

ROUNDS = 7
BOOKS_SECONDS = 900
_SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
_CONFIG = """
server: {{public: "127.0.0.1:0", admin: "127.0.0.1:0", health: "127.0.0.1:0"}}
database: {{url: "{database}"}}
redis: {{url: "{redis}"}}
data_dir: {folder}
credits: {{shown_as: {{currency: USD, per_unit: 10000}}}}
portal: {{url: "http://127.0.0.1"}}
upstreams: {{main: {{targets: ["http://127.0.0.1:9"]}}}}
routes:
  - {{name: route-1, match: {{path: /call, methods: [POST]}}, upstream: main, usage_type: call, price: {{credits: 1}}}}
"""
PORTAL = (
    *("", "/keys", "/keys?revoked=1", "/usage", "/usage?by=key", "/usage?by=route", "/usage?by=model", "/refusals"),
    *("/plan", "/credits", "/billing", "/billing/payments", "/billing/invoices", "/alerts", "/first-call", "/account"),
)
CONSOLE = (
    *("", "/find", "/find?q=person1234", "/find?q=company", "/find?q={email}", "/find?q={request}", "/find?q=wxyz"),
    *("/accounts/{user}", "/accounts/{user}/ledger", "/accounts/{user}/calls", "/accounts/{user}/refusals"),
    *("/usage?days=1", "/usage", "/usage?days=90&split=model", "/usage?days=366&split=plan", "/usage?split=outcome"),
    *("/usage?user_id={user}&split=key", "/usage/accounts", "/usage/accounts?month={last_month}", "/usage/exports"),
    *("/calls/{request}", "/plans", "/plans/basic", "/prices", "/money", "/money?status=failed"),
    *("/money?list=invoices", "/money?list=events", "/money?list=events&status=failed"),
    *("/why", "/audit", "/tokens", "/system"),
)


class Timed(NamedTuple):
    path: str
    milliseconds: list[float]


async def time_pages(database_url: str, redis_url: str) -> None:
    """Prints a table: of each page the least, the median and the most."""
    ids = await _ids(database_url)
    with tempfile.TemporaryDirectory() as folder, _serving(Path(folder), database_url, redis_url) as printed:
        portal, console = portal_of(printed, ids["user"]), console_of(printed)
        _await_books(printed["health_url"])
        rows = [_time(portal, "/portal", path, ids) for path in PORTAL]
        rows += [_time(console, "/console", path, ids) for path in CONSOLE]
    print("| page | least ms | median | most |\n|---|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: -statistics.median(row.milliseconds)):
        taken = (min(row.milliseconds), statistics.median(row.milliseconds), max(row.milliseconds))
        print(f"| `{row.path}` | {' | '.join(f'{each:.0f}' for each in taken)} |")


async def _ids(url: str) -> Mapping[str, str]:
    """Of the account that calls most, and the newest of its calls."""
    connection = await asyncpg.connect(url)
    try:
        month, user = await connection.fetchrow(
            "SELECT month, user_id FROM usage_months WHERE month = (SELECT max(month) FROM usage_months)"
            " ORDER BY requests DESC LIMIT 1"
        )
        email = await connection.fetchval("SELECT email FROM users WHERE id = $1", user)
        request = await connection.fetchval(
            "SELECT request_id FROM usage_tracking WHERE user_id = $1 ORDER BY created_at DESC LIMIT 1", user
        )
        last = await connection.fetchval("SELECT max(month) FROM usage_months WHERE month < $1", month)
    finally:
        await connection.close()
    return {"user": str(user), "email": email, "request": str(request), "last_month": f"{last:%Y-%m}"}


def _await_books(health_url: str) -> None:
    """Until the books of all accounts have been compared, which a start does once, in the process of the pages."""
    give_up_at = monotonic() + BOOKS_SECONDS
    while "\ngateway_reconcile_difference_credits " not in httpx.get(f"{health_url}/metrics").text:
        if monotonic() > give_up_at:
            raise SystemExit(f"the books are still being compared after {BOOKS_SECONDS} s")
        sleep(1)


def _time(browser: httpx.Client, root: str, path: str, ids: Mapping[str, str]) -> Timed:
    taken = []
    for _ in range(ROUNDS):
        began = perf_counter()
        response = browser.get(root + path.format(**ids))
        taken.append(1000 * (perf_counter() - began))
        if response.status_code not in (200, 303):
            print(f"{root}{path} answers {response.status_code}", file=sys.stderr, flush=True)
            break
        _, problem, said = response.text.partition('class="note problem"')
        if problem and path:
            print(f"{root}{path} says: {said[:200]}", file=sys.stderr)
    return Timed(root + path, taken)


@contextmanager
def _serving(folder: Path, database_url: str, redis_url: str) -> Iterator[dict[str, Any]]:
    """What `gateway serve --json` prints."""
    config = folder / "gateway.yaml"
    config.write_text(_CONFIG.format(database=database_url, redis=redis_url, folder=folder / "data"))
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--json"]
    with (
        (folder / "gateway.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | _SECRETS) as process,
    ):
        try:
            line = next(iter(process.stdout or ()), None)
            if line is None:
                raise SystemExit((folder / "gateway.log").read_text()[-2000:])
            yield {**json.loads(line), "admin_token": _SECRETS["GATEWAY_ADMIN_TOKEN"]}
        finally:
            process.terminate()
