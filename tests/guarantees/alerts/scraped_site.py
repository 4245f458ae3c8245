"""A scaled-out installation with a Prometheus of its own: two proxies, admin, worker, and wires to what they need."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import yaml

from gateway.clock import monotonic_seconds
from tests.guarantees.chaos.rolling import ROOT, Process, free_ports, run, serving
from tests.guarantees.faults.parts import children
from tests.guarantees.faults.proxy import FaultProxy
from tests.guarantees.simulation.installation import _address
from tests.guarantees.simulation.restored_stores import Postgresql
from tests.guarantees.simulation.served_gateway import SECRETS
from tests.proxy import upstream as upstreams
from tests.proxy.upstream import ScriptedUpstream
from tests.support.polling import listening

PROMETHEUS = shutil.which("prometheus")
# Every duration of the rules is divided by this, also those that are thresholds: the lags of the journal and the sink.
SHORTENED = 30
PATIENCE_SECONDS = 90.0  # a shortened window and `for` take 30 s at most, what makes the fault the rest
CLIENTS = 4
TRIES = 5
STRIPE_SECRET = "whsec_of_a_test"
DOCUMENT = """
redis: {{timeout: 3s, partitions: 4}}
usage: {{keep_months: 1, archive: "{folder}/archive", sink: "{folder}/sink"}}
upstreams:
  main: {{targets: ["http://127.0.0.1:{upstream}"], max_share_per_account: 1, retries: 0}}
routes:
  - {{name: call, match: {{path: /v1/**}}, upstream: main, price: {{credits: 1}}}}
  - name: counted
    match: {{path: /v2/**}}
    upstream: main
    price: {{credits: 1, per: item, count: "response:/items", hold: 1, maximum: 2}}
plans: [{{id: open, name: Open, price: 0}}]
billing: {{stripe: {{api_base: "http://127.0.0.1:{stripe}"}}}}
"""
_DURATION = re.compile(r"(?<=\[)\d+[smh](?=\])|(?<=offset )\d+[smh]|(?<=for: )\d+[smh]")
_LAGS = {"gateway_journal_lag_seconds": 300, "gateway_usage_sink_lag_seconds": 7200}
_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000}


@dataclass
class Prometheus:
    url: str

    async def firing(self) -> set[str]:
        async with httpx.AsyncClient(base_url=self.url) as client:
            answer = (await client.get("/api/v1/alerts")).raise_for_status().json()
        return {each["labels"]["alertname"] for each in answer["data"]["alerts"] if each["state"] == "firing"}

    async def fires(self, alert: str) -> float:
        """The seconds after which it fires. Raises TimeoutError."""
        return await self._becomes(alert, is_firing=True, seconds=PATIENCE_SECONDS)

    async def clears(self, alert: str, seconds: float) -> float:
        return await self._becomes(alert, is_firing=False, seconds=seconds)

    async def _becomes(self, alert: str, *, is_firing: bool, seconds: float) -> float:
        began = monotonic_seconds()
        async with asyncio.timeout(seconds):
            while (alert in await self.firing()) is not is_firing:  # noqa: ASYNC110 - of a process
                await asyncio.sleep(0.2)
        return monotonic_seconds() - began


@dataclass
class Site:
    folder: Path
    places: Mapping[str, str]
    proxies: list[Process]
    admin: Process
    worker: Process
    public: list[str]
    admin_url: str
    prometheus: Prometheus
    postgresql: Postgresql
    wires: Mapping[str, FaultProxy]  # of the proxies: postgres, redis, upstream, stripe
    upstream: ScriptedUpstream
    user: str
    key: str

    def children(self, process: Process) -> list[psutil.Process]:
        assert process.process is not None
        return [psutil.Process(pid) for pid in children(process.process.pid)]

    async def command(self, *words: str) -> dict[str, str]:
        return await run(*words, folder=self.folder, places=self.places)

    async def get(self, path: str = "/v1/x", *, proxy: int = 0, key: str | None = None) -> int:
        """The status; 0 for no answer."""
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=self.public[proxy], timeout=30) as client:
                return (await client.get(path, headers={"x-api-key": key or self.key})).status_code
        return 0

    async def calls(self) -> None:
        number = 0
        while True:
            number += 1
            await self.get(proxy=number % 2)
            await asyncio.sleep(0.1)


def shortened(rules: Path) -> str:
    text = _DURATION.sub(lambda found: f"{int(found[0][:-1]) * _UNITS[found[0][-1]] // SHORTENED}ms", rules.read_text())
    for metric, seconds in _LAGS.items():
        assert f"{metric} > {seconds}\n" in text
        text = text.replace(f"{metric} > {seconds}\n", f"{metric} > {seconds // SHORTENED}\n")
    return text


@asynccontextmanager
async def scraped(folder: Path, *, database_url: str, redis_url: str) -> AsyncIterator[Site]:
    """The installation with an account that calls both proxies all the time."""
    *public, one, two, admin_health, worker_health, admin_port, prometheus_port = free_ports(8)
    async with AsyncExitStack() as stack:
        upstream, wires = await stack.enter_async_context(_wired(database_url, redis_url))
        places = {name: str(wire.port) for name, wire in wires.items()} | {"folder": str(folder)}
        (folder / "gateway.yaml").write_text(DOCUMENT.format(**places))
        direct = {
            **SECRETS,
            "GATEWAY_DATABASE__URL": database_url,
            "GATEWAY_REDIS__URL": redis_url,
            "GATEWAY_DATA_DIR": str(folder / "data"),
            "STRIPE_SECRET_KEY": "sk_test_x",
            "STRIPE_WEBHOOK_SECRET": STRIPE_SECRET,
        }
        wired = direct | {
            "GATEWAY_DATABASE__URL": wires["postgres"].through(database_url),
            "GATEWAY_REDIS__URL": wires["redis"].through(redis_url),
        }
        proxies = [
            Process(
                "proxy", folder, wired | _listens("PUBLIC", port) | _listens("HEALTH", health), log=Path("/dev/null")
            )
            for port, health in zip(public, (one, two), strict=True)
        ]
        admin = Process(
            "admin", folder, direct | _listens("ADMIN", admin_port) | _listens("HEALTH", admin_health), tries=TRIES
        )
        worker = Process("worker", folder, direct | _listens("HEALTH", worker_health), tries=TRIES)
        user, key = await _account(folder, direct)
        for each in (worker, admin, *proxies):  # each has the machine for itself while it starts
            await stack.enter_async_context(serving([each]))
        jobs = {"gateway-proxy": [one, two], "gateway-admin": [admin_health], "gateway-worker": [worker_health]}
        prometheus = await stack.enter_async_context(_prometheus(folder / "prometheus", jobs, prometheus_port))
        urls = [f"http://127.0.0.1:{port}" for port in (*public, admin_port)]
        yield Site(
            *(folder, direct, proxies, admin, worker, urls[:-1], urls[-1], prometheus, Postgresql(database_url)),
            *(wires, upstream, user, key),
        )


@asynccontextmanager
async def calling(site: Site) -> AsyncIterator[None]:
    """Its clients call for the time of the block."""
    clients = [asyncio.create_task(site.calls()) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for wire in site.wires.values():
            wire.thaw()
        await site.postgresql.drop_copies()


@asynccontextmanager
async def _wired(database_url: str, redis_url: str) -> AsyncIterator[tuple[ScriptedUpstream, dict[str, FaultProxy]]]:
    """The upstream, and wires to it and to what else proxies reach. Stripe knows nothing that it is asked for."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstreams.running())
        provider = await stack.enter_async_context(upstreams.running())
        provider.respond_with(404, b'{"error": {"type": "invalid_request_error", "code": "resource_missing"}}')
        urls = {"postgres": database_url, "redis": redis_url, "upstream": upstream.url, "stripe": provider.url}
        wires = {name: await stack.enter_async_context(FaultProxy(*_address(url))) for name, url in urls.items()}
        yield upstream, wires


async def _account(folder: Path, places: Mapping[str, str]) -> tuple[str, str]:
    async def command(*words: str) -> dict[str, str]:
        return await run(*words, "--json", folder=folder, places=places)

    user = (await command("users", "create", "--email", "ada@example.com", "--plan", "open"))["id"]
    await command("credits", "grant", "--user", user, "--amount", "1000000", "--reason", "test")
    return user, (await command("keys", "create", "--user", user))["key"]


def _listens(listener: str, port: int) -> dict[str, str]:
    return {f"GATEWAY_SERVER__{listener}": f"127.0.0.1:{port}"}


@asynccontextmanager
async def _prometheus(folder: Path, jobs: Mapping[str, list[int]], port: int) -> AsyncIterator[Prometheus]:
    assert PROMETHEUS is not None
    _configure(folder, jobs)
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS, *(f"--{name}={value}" for name, value in options.items()), stderr=log, stdout=subprocess.DEVNULL
        )
    try:
        await listening(port, PATIENCE_SECONDS)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


def _configure(folder: Path, jobs: Mapping[str, list[int]]) -> None:
    folder.mkdir()
    (folder / "alerts.yml").write_text(shortened(ROOT / "deploy" / "prometheus" / "alerts.yml"))
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "alerts.yml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{each}" for each in ports]}]}
            for job, ports in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
