"""Each role tells probes and scrapers the truth about its processes, while stores fail and processes are stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from gateway.cli.installation import prepare
from gateway.clock import monotonic_seconds
from gateway.config import describe, load
from gateway.config.secrets import used_by, withheld_from
from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from gateway.runtime.process import _follow_supervisor
from gateway.runtime.stores import StoreUrls
from tests.guarantees.faults.parts import Store, children
from tests.guarantees.faults.proxy import FaultProxy
from tests.guarantees.simulation.installation import _address
from tests.guarantees.simulation.served_gateway import SECRETS, create_account
from tests.proxy import upstream as upstreams
from tests.proxy.upstream import Exchange, ScriptedUpstream

PATIENCE_SECONDS = 120.0  # only a failure waits so long
POLL_SECONDS = 0.1
OPEN_CALLS = 5
DOCUMENT = """
server: {{public: "127.0.0.1:0", admin: "127.0.0.1:0", health: "127.0.0.1:0", shutdown_delay: {delay}}}
portal: {{enabled: false}}
redis: {{timeout: 2s, partitions: 4, on_outage: {on_outage}}}
upstreams: {{main: {{targets: ["{upstream}"], max_share_per_account: 1}}}}
routes: [{{name: call, match: {{path: /v1/**}}, upstream: main, price: {{credits: 1}}}}]
plans: [{{id: open, name: Open, price: 0}}]
"""


@dataclass
class Site:
    """Both stores as roles reach them, and an upstream."""

    folder: Path
    places: dict[str, str]
    postgres: FaultProxy
    redis: Redis
    upstream: ScriptedUpstream
    key: str = ""

    def write(self, *, on_outage: str = "refuse", delay: str = "0s") -> None:
        text = DOCUMENT.format(on_outage=on_outage, delay=delay, upstream=self.upstream.url)
        (self.folder / "gateway.yaml").write_text(text)

    def summary(self) -> str:
        """What `gateway check` prints."""
        return describe(load(self.folder / "gateway.yaml", self.places))


@dataclass
class Running:
    process: asyncio.subprocess.Process
    health: httpx.AsyncClient
    public: httpx.AsyncClient

    async def ready(self) -> tuple[int, list[str]]:
        answer = await self.health.get("/readyz")
        return answer.status_code, answer.json()["missing"]

    async def becomes(self, *missing: str) -> None:
        """Returns once exactly this is missing: ready, if nothing is."""
        expected = (503 if missing else 200, sorted(missing))

        async def is_so() -> bool:
            return await self.ready() == expected

        await until(is_so)

    async def stays_ready(self, seconds: float) -> None:
        began = monotonic_seconds()
        while monotonic_seconds() - began < seconds:
            assert await self.ready() == (200, [])
            await asyncio.sleep(POLL_SECONDS)

    async def call(self) -> int:
        return (await self.public.get("/v1/thing")).status_code

    async def series(self) -> dict[str, float]:
        lines = (await self.health.get("/metrics")).raise_for_status().text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    async def shows(self, **wanted: float | None) -> None:
        """Returns once these series have these values; None is for one that is not there."""

        async def are_shown() -> bool:
            series = await self.series()
            return all(series.get(name) == value for name, value in wanted.items())

        await until(are_shown)

    def child(self, name: str) -> int:
        """The process of this name."""
        (pid,) = [pid for pid in children(self.process.pid) if name in psutil.Process(pid).cmdline()]
        return pid


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - of processes
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
async def site(tmp_path: Path, own_database_url: str) -> AsyncIterator[Site]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    valkey = Store("valkey", Valkey(folder, durable=True), choose(None).valkey, folder / "valkey.lock")
    await valkey.start()
    redis_url = f"redis://:{valkey.endpoint.password}@127.0.0.1:{valkey.endpoint.port}/0"
    async with (
        FaultProxy(*_address(own_database_url)) as postgres,
        Redis.from_url(redis_url) as redis,
        upstreams.running() as upstream,
    ):
        places = {
            **SECRETS,
            "GATEWAY_DATABASE__URL": postgres.through(own_database_url),
            "GATEWAY_REDIS__URL": redis_url,
            "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        }
        found = Site(tmp_path, places, postgres, redis, upstream)
        found.write()
        config = load(tmp_path / "gateway.yaml", places)
        await prepare(config, StoreUrls(own_database_url, redis_url))
        found.key = await create_account(config)
        yield found
    await valkey.stop()


@asynccontextmanager
async def running(site: Site, role: str, *, more: Mapping[str, str] = {}) -> AsyncIterator[Running]:
    """The role with the secrets that it uses, and `more` variables."""
    command = [sys.executable, "-m", "gateway", role, "--config", str(site.folder / "gateway.yaml"), "--json"]
    log = site.folder / f"{role}.log"
    places = {name: value for name, value in site.places.items() if name not in withheld_from(role)} | dict(more)
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=lines
        )
    assert process.stdout is not None
    try:
        said = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS) or b"{}")
        assert said, log.read_text()
        async with (
            httpx.AsyncClient(base_url=said["health_url"], timeout=30) as health,
            httpx.AsyncClient(
                base_url=said["public_url"] or "http://none", timeout=60, headers={"x-api-key": site.key}
            ) as public,
        ):
            yield Running(process, health, public)
    finally:
        if process.returncode is None:
            for each in children(process.pid):
                os.kill(each, signal.SIGCONT)
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


async def test_proxy_is_ready_exactly_while_it_admits(site: Site) -> None:
    async with running(site, "proxy") as proxy:
        await proxy.becomes()
        assert await proxy.call() == 200
        connections = len(await site.redis.client_list()) - 1  # that of this test
        assert f"Redis, to each server: serve {connections + 2}, proxy {connections}," in site.summary()

        await site.redis.replicaof("127.0.0.1", 1)
        await proxy.becomes("redis")
        assert await proxy.call() == 503
        await site.redis.replicaof("NO", "ONE")
        await proxy.becomes()

        await site.redis.config_set("maxmemory", 1)
        await proxy.becomes("redis")
        await site.redis.config_set("maxmemory", 0)
        await proxy.becomes()

        async def serves() -> bool:
            return await proxy.call() == 200

        await until(serves)  # the accounts are loaded again

        site.postgres.freeze()
        await proxy.stays_ready(4)
        assert await proxy.call() == 200
        site.postgres.thaw()


async def test_proxy_without_a_known_caller_needs_postgresql_and_with_outage_credit_no_redis(site: Site) -> None:
    site.write(on_outage="{float: 5}")
    async with running(site, "proxy") as proxy:
        await proxy.becomes()
        await site.redis.replicaof("127.0.0.1", 1)
        await proxy.stays_ready(3)
        await site.redis.replicaof("NO", "ONE")

        site.postgres.freeze()
        await proxy.becomes("database")
        site.postgres.thaw()
        await proxy.becomes()
        assert await proxy.call() == 200


async def test_frozen_process_is_not_ready_and_one_killed_leaves_no_open_calls_in_the_metrics(site: Site) -> None:
    begun = asyncio.Semaphore(0)

    async def never(exchange: Exchange) -> None:
        await exchange.read()
        begun.release()
        await asyncio.Event().wait()

    async with running(site, "proxy") as proxy:
        await proxy.becomes()
        # Shown before they count anything: what an alert takes for an increase needs a value before it.
        await proxy.shows(**{'gateway_process_restarts_total{process="proxy-0"}': 0})
        await proxy.shows(
            **{f'gateway_config_reloads_total{{result="{result}"}}': 0 for result in ("applied", "refused")}
        )
        await proxy.shows(
            **{f'gateway_epochs_begun_total{{reason="{why}_behind"}}': 0 for why in ("postgresql", "redis")}
        )
        child = proxy.child("proxy")
        os.kill(child, signal.SIGSTOP)
        await proxy.becomes("proxy-0")
        assert (await proxy.series())['gateway_process_ready{process="proxy-0"}'] == 0
        os.kill(child, signal.SIGCONT)
        await proxy.becomes()

        site.upstream.answer = never
        calls = [asyncio.create_task(proxy.public.get("/v1/thing")) for _ in range(OPEN_CALLS)]
        for _ in calls:
            await asyncio.wait_for(begun.acquire(), PATIENCE_SECONDS)
        await proxy.shows(gateway_requests_in_flight=OPEN_CALLS, gateway_admitted_total=OPEN_CALLS)
        os.kill(child, signal.SIGKILL)
        await asyncio.gather(*calls, return_exceptions=True)
        await proxy.becomes()
        await proxy.shows(gateway_requests_in_flight=0, gateway_admitted_total=OPEN_CALLS)
        assert (await proxy.series())['gateway_process_restarts_total{process="proxy-0"}'] == 1


async def test_proxy_that_stops_is_not_ready_and_accepts_for_the_delay(site: Site) -> None:
    site.write(delay="4s")
    async with running(site, "proxy") as proxy:
        await proxy.becomes()
        proxy.process.terminate()
        await proxy.becomes("draining")
        async with httpx.AsyncClient(base_url=proxy.public.base_url, headers=proxy.public.headers) as new:
            assert (await new.get("/v1/thing")).status_code == 200
        assert await asyncio.wait_for(proxy.process.wait(), PATIENCE_SECONDS) == 0


async def test_processes_are_given_no_secret_that_their_role_does_not_use(site: Site) -> None:
    given = {**SECRETS, "GATEWAY_OIDC_CLIENT_SECRET": "of the provider", "GATEWAY_WEBHOOK_SECRET": "whsec"}
    async with running(site, "admin", more=given) as admin:
        await admin.becomes()
        child = admin.child("admin")
        environ = psutil.Process(child).environ()
        assert {name for name in given if name in environ} == used_by("admin")


async def test_signal_to_stop_is_heard_while_processes_start(site: Site) -> None:
    """A proxy may serve while another process still starts: stopped then, it must drain all the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        health = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "gateway", "worker", "--config", str(site.folder / "gateway.yaml")]
    environ = {**os.environ, **site.places, "GATEWAY_SERVER__HEALTH": health}
    process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=subprocess.DEVNULL)
    async with httpx.AsyncClient(base_url=f"http://{health}") as client:

        async def starts() -> bool:
            with suppress(httpx.ConnectError):
                return bool((await client.get("/readyz")).json()["missing"])
            return False

        await until(starts)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0


async def test_process_stops_whose_supervisor_ended_before_it_was_ready() -> None:
    supervisor, line = socket.socketpair()
    supervisor.close()
    stop = asyncio.Event()
    await _follow_supervisor(line.detach(), stop, dict, announce_drain=lambda: None)
    assert stop.is_set()


async def test_worker_shows_its_series_and_nothing_of_one_that_is_dead(site: Site) -> None:
    async with running(site, "worker") as worker:
        await worker.becomes()
        await worker.shows(gateway_journal_lag_seconds=0, gateway_holds_open=0)
        child = worker.child("worker")
        psutil.Process(child).kill()
        await worker.shows(gateway_journal_lag_seconds=None)
        await worker.becomes()
        await worker.shows(gateway_journal_lag_seconds=0)
        assert worker.child("worker") != child

        site.postgres.freeze()
        await worker.becomes("database")
        site.postgres.thaw()
        await worker.becomes()
