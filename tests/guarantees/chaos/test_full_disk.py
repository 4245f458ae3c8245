"""The disk of Valkey and of the spools is full, again and again, at random moments under load.

Every call that was answered with a charge has its row, by the space that the spool has reserved; calls that Redis
declined are owed nothing; and the gateway is back by itself.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway import metrics
from gateway.config import load
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.client.client import RedisClient
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.scripts import SCRIPTS
from gateway.proxy.settle import settlement
from gateway.workers.runner import Runner
from gateway.workers.usage.reconciliation import Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation.faulty_valkey import FaultyValkey
from tests.proxy import data_plane as data_planes
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.upstream import Exchange, ScriptedUpstream
from tests.support.sampling import scaled, seeded_random
from tests.support.steady_clock import steady_clock

ROUNDS = scaled(suite=3, full=50)
PARTITIONS = 4
CLIENTS = 12
DISK_BYTES = 64 << 20
BACK_SECONDS = 10.0
ENVIRON = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


class SmallDisk:
    """A file system of its own, which a test may fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may mount no file system")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with upstreams.running() as running:
        yield running


@pytest.fixture
async def gateway(disk: SmallDisk, upstream: ScriptedUpstream, own_database_url: str) -> AsyncIterator[DataPlane]:
    async with FaultyValkey(disk.folder) as valkey, Redis.from_url(valkey.url) as redis:
        database = Database(own_database_url, pool_size=8)
        redis_client = RedisClient(valkey.url, timeout_seconds=5, scripts=SCRIPTS)
        await redis_client.open()
        places: dict[str, object] = {
            "database.url": own_database_url,
            "redis.url": valkey.url,
            "redis.partitions": PARTITIONS,
            "redis.timeout": "0.5s",
            "data_dir": str(disk.folder / "data"),
            "upstreams.main.targets": upstream.url,
        }
        config = load(Path(__file__).parent / "lost_redis.yaml", ENVIRON, overrides=places)
        serving = data_planes.running(config, upstream, database=database, redis=redis, redis_client=redis_client)
        async with serving as running, Runner(UsageWriter(database, Journal(redis_client, PARTITIONS))):
            yield running
        await redis_client.close()
        await database.close()


@pytest.fixture(autouse=True)
async def _quiet_and_steady() -> AsyncIterator[None]:
    with capture_logs(), steady_clock():
        yield


class Load:
    """Clients that call without a pause; what they were answered."""

    def __init__(self, gateway: DataPlane, account: Account) -> None:
        self._gateway = gateway
        self._account = account
        self.charged: list[str] = []
        self.declined = 0
        self.is_over = False

    async def client(self) -> None:
        while not self.is_over:
            answer = await self._gateway.get(self._account)
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                self.charged.append(answer.headers["x-request-id"])
            else:
                self.declined += 1
                await asyncio.sleep(0.01)


async def test_full_disk_loses_no_charge(
    disk: SmallDisk, gateway: DataPlane, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "MAX_IN_MEMORY", 0)  # as if memory were full already
    random = seeded_random("full disk")

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await asyncio.sleep(random.uniform(0, 0.3))  # many are under way when the disk is full
        await exchange.reply()

    upstream.answer = answer
    account = await gateway.create_account(credits=1_000_000)
    load, lost = Load(gateway, account), metrics.SETTLEMENTS_LOST._value.get()
    clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
    for _ in range(ROUNDS):
        await asyncio.sleep(random.uniform(0.2, 0.6))
        await asyncio.to_thread(disk.fill)
        declined = load.declined
        await asyncio.sleep(random.uniform(0.1, 1.0))
        disk.free()
        served = len(load.charged)
        async with asyncio.timeout(BACK_SECONDS):
            while len(load.charged) < served + CLIENTS:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        assert load.declined >= declined
    load.is_over = True
    await asyncio.gather(*clients)
    async with asyncio.timeout(60):
        while await _unsettled(gateway):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)

    async with gateway.database.read() as connection:
        query = text("SELECT request_id, outcome, credits_charged FROM usage_tracking")
        rows = {str(row.request_id): (row.outcome, row.credits_charged) for row in await connection.execute(query)}
    assert [rows.get(call) for call in load.charged] == [("succeeded", 1)] * len(load.charged)
    assert metrics.SETTLEMENTS_LOST._value.get() == lost
    assert load.declined > 0
    reconciler = Reconciler(gateway.database, AccountSnapshotReader(gateway.redis_client, gateway.meter))
    assert [each async for page in reconciler.pages() for each in page.findings] == []
    measured.append(f"full disk {ROUNDS} times: {len(load.charged):,} calls charged, {load.declined:,} declined")


async def _unsettled(gateway: DataPlane) -> int:
    client, settler = gateway.redis_client, gateway.handler._settler
    return settler.pending + await Holds(client, PARTITIONS).count() + await Journal(client, PARTITIONS).length()
