"""Gateways frozen beyond their lease, or killed while Redis is away: every complete response is charged."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from gateway.config import Config, load
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.client.client import RedisClient
from gateway.meter.holds import Holds
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.proxy.handler import Handler
from gateway.workers.usage.hold_sweeper import HoldSweeper
from gateway.workers.usage.reconciliation import Reconciler
from tests.guarantees.faults.proxy import FaultProxy
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.upstream import Exchange, ScriptedUpstream
from tests.support.polling import eventually

REDIS_DATABASE = 14  # this module's alone while it runs
PARTITIONS = 4
CALLS = 200
SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
START_SECONDS, STOP_SECONDS, REPLAY_SECONDS = 60, 30, 30
CONFIG = """
server: {{public: 127.0.0.1:0}}
portal: {{enabled: false}}
data_dir: {data_dir}
database: {{url: "{database_url}"}}
redis: {{url: "{redis_url}", partitions: {partitions}, timeout: 2s}}
upstreams: {{main: {{targets: ["{upstream_url}"], max_share_per_account: 1}}}}
routes: [{{name: things, match: {{path: /v1/things/**}}, upstream: main, price: {{credits: 1}}}}]
"""


@dataclass
class Site:
    """Both stores, an upstream that waits for `may_answer`, and a configuration for gateways."""

    config: Config
    folder: Path
    upstream: ScriptedUpstream
    database: Database
    redis: Redis
    redis_client: RedisClient
    valkey: FaultProxy
    may_answer: asyncio.Event

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[tuple[DataPlane, Process]]:
        """`gateway proxy`: real processes, which read the same stores."""
        process = await self._start()
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                said = json.loads(await process.stdout.readline() or "{}")
            assert said, (self.folder / "log").read_text()
            meter = Meter(self.redis_client, partitions=PARTITIONS, owner="test")
            nowhere = cast(Handler, None)  # it is in the other process
            no_limit = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=said["public_url"], timeout=30, limits=no_limit) as http:
                yield (
                    DataPlane(
                        said["public_url"],
                        self.config,
                        nowhere,
                        self.upstream,
                        self.database,
                        self.redis,
                        meter,
                        self.redis_client,
                        http,
                    ),
                    process,
                )
        finally:
            await _stop(process)

    async def _start(self) -> Process:
        with (self.folder / "log").open("a") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "proxy", "--json", "--config", str(self.config.path)),
                stdout=PIPE,
                stderr=log,
                env={**os.environ, **SECRETS},
                start_new_session=True,
            )

    async def calls(self, data_plane: DataPlane, account: Account, count: int) -> list[asyncio.Task[httpx.Response]]:
        """Calls that the upstream has, and has not answered."""

        async def answer(exchange: Exchange) -> None:
            await self.may_answer.wait()
            await exchange.reply(200, b"done")

        self.may_answer.clear()
        self.upstream.reset()
        self.upstream.answer = answer
        calls = [asyncio.create_task(data_plane.get(account)) for _ in range(count)]
        await eventually(
            lambda: len(self.upstream.exchanges) == count or any(call.done() for call in calls), timeout_seconds=30
        )
        assert [call.result().text for call in calls if call.done()] == []
        return calls

    def spools(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in (self.config.data_dir / "spool").iterdir()}


@pytest.fixture
async def site(own_database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    url = f"{redis_url.rpartition('/')[0]}/{REDIS_DATABASE}"
    database, redis_client = Database(own_database_url), RedisClient(url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    async with (
        Redis.from_url(url) as redis,
        FaultProxy("127.0.0.1", int(redis_url.rpartition(":")[2].partition("/")[0])) as valkey,
        upstreams.running() as upstream,
    ):
        await redis.flushdb()
        path = tmp_path / "gateway.yaml"
        path.write_text(
            CONFIG.format(
                data_dir=tmp_path / "data",
                database_url=own_database_url,
                redis_url=valkey.through(url),
                partitions=PARTITIONS,
                upstream_url=upstream.url,
            )
        )
        config = load(path, SECRETS)
        yield Site(config, tmp_path, upstream, database, redis, redis_client, valkey, asyncio.Event())
    await redis_client.close()
    await database.close()


async def test_frozen_gateway_charges_what_it_delivered(site: Site) -> None:
    async with site.gateway() as (data_plane, process):
        account = await data_plane.create_account()
        calls = await site.calls(data_plane, account, 3)
        _signal_children(process, signal.SIGSTOP)
        assert await _sweep(site) == 3
        assert (await data_plane.redis_state(account)).balance == 100
        assert [row["outcome"] for row in await data_plane.usage_rows(account)] == ["abandoned"] * 3

        site.may_answer.set()
        _signal_children(process, signal.SIGCONT)
        answers = await asyncio.gather(*calls)
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"done")] * 3
        await _assert_charged(site, data_plane, account, charge=3, of=100)

        assert (await data_plane.get(account)).status_code == 200, "it goes on as if nothing had happened"
        await _assert_charged(site, data_plane, account, charge=4, of=100)


async def test_spool_of_a_killed_gateway_is_settled_by_the_next(site: Site) -> None:
    async with site.gateway() as (data_plane, process):
        account = await data_plane.create_account(credits=1000)
        calls = await site.calls(data_plane, account, CALLS)
        assert len(await data_plane.holds(account)) == CALLS
        site.valkey.freeze()
        site.may_answer.set()
        answers = await asyncio.gather(*calls)
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, b"done")}
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert len(await data_plane.holds(account)) == CALLS, "Redis must know of none"
    assert [size > 0 for size in site.spools().values()] == [True]
    site.valkey.reset()  # what the network held back is lost
    site.valkey.thaw()
    async with site.gateway() as (data_plane, _):
        async with asyncio.timeout(REPLAY_SECONDS):
            while await data_plane.holds(account):  # noqa: ASYNC110 - Redis has no event to offer
                await asyncio.sleep(0.05)
        await _assert_charged(site, data_plane, account, charge=CALLS, of=1000)
        await eventually(lambda: list(site.spools().values()) == [0])
    assert site.spools() == {}


async def _assert_charged(site: Site, data_plane: DataPlane, account: Account, *, charge: int, of: int) -> None:
    """Asserts one row for each call, and equal books."""
    assert (await data_plane.settled_state(account)).balance == of - charge
    rows = await data_plane.usage_rows(account)
    assert [(row["outcome"], row["status_code"], row["credits_charged"]) for row in rows] == [
        ("succeeded", 200, 1)
    ] * charge
    assert await data_plane.stored_balance(account) == of - charge
    reconciler = Reconciler(site.database, AccountSnapshotReader(site.redis_client, data_plane.meter))
    assert [each async for page in reconciler.pages() for each in page.findings] == []


async def _sweep(site: Site) -> int:
    """Sweeps as if the lease had run out: heartbeats are deleted, and each pass advances the clock by a second."""
    for key in [key async for key in site.redis.scan_iter("gw:i:*")]:
        await site.redis.delete(key)
    seconds = itertools.count()
    meter = Meter(site.redis_client, partitions=PARTITIONS, owner="sweeper")
    sweeper = HoldSweeper(meter, Holds(site.redis_client, PARTITIONS), monotonic=lambda: float(next(seconds)))
    return sum([await sweeper.run_once() for _ in range(12)])


def _signal_children(process: Process, number: signal.Signals) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        child.send_signal(number)


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.communicate()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
