"""Redis is frozen, slowed, emptied, killed and restored again and again, under load on two gateways.

Every call is answered in time and has one row if it was admitted; nobody gets more credits or calls than there are; and
the gateways are back by themselves. Time is that of the loop in which clients and gateways run: it passes while they
wait for Redis, and not while the machine gives its CPU to others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway.clock import monotonic_seconds
from gateway.config import load
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.client.client import RedisClient
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.runner import Runner
from gateway.workers.usage.hold_sweeper import HoldSweeper
from gateway.workers.usage.reconciliation import Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation.faulty_valkey import Fault, FaultyValkey
from tests.proxy import data_plane as data_planes
from tests.proxy import upstream as upstreams
from tests.proxy.data_plane import Account, DataPlane
from tests.support.polling import eventually
from tests.support.sampling import scaled, seeded_random
from tests.support.steady_clock import steady_clock

ROUNDS = scaled(suite=len(Fault), full=100)
PARTITIONS = 4
CLIENTS = 8
POOR_CREDITS = 40
PER_MINUTE = 30
TIMEOUT_SECONDS = 0.2
ANSWER_SECONDS = 2 * TIMEOUT_SECONDS  # a call that waits a second time takes so long
BACK_SECONDS = 5.0
AFTERMATH_SECONDS = 30.0
ENVIRON = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


@dataclass
class Load:
    """Clients of both gateways, and the responses that they got."""

    data_planes: list[DataPlane]
    accounts: list[Account]
    statuses: Counter[tuple[object, int]] = field(default_factory=Counter)
    served_at: dict[object, list[float]] = field(default_factory=dict)
    is_suffering: bool = False
    slowest_seconds: float = 0.0
    is_over: bool = False

    async def client(self, number: int) -> None:
        random, loop = seeded_random(f"client {number}"), asyncio.get_running_loop()
        while not self.is_over:
            account = random.choice(self.accounts)
            started, was_suffering = loop.time(), self.is_suffering
            answer = await random.choice(self.data_planes).get(account)
            if was_suffering or self.is_suffering:
                self.slowest_seconds = max(self.slowest_seconds, loop.time() - started)
            self.statuses[account.user_id, answer.status_code] += 1
            if answer.status_code == 200:
                self.served_at.setdefault(account.user_id, []).append(monotonic_seconds())
            await asyncio.sleep(random.uniform(0, 0.04))

    async def go_on(self, accounts: list[Account], *, within_seconds: float) -> None:
        """Returns once each account has been served again."""
        before = [self.served(each) for each in accounts]

        def are_served() -> bool:
            return all(self.served(each) > was for each, was in zip(accounts, before, strict=True))

        await eventually(are_served, timeout_seconds=within_seconds)

    def served(self, account: Account) -> int:
        return self.statuses[account.user_id, 200]


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[FaultyValkey]:
    async with FaultyValkey(tmp_path) as valkey:
        yield valkey


@pytest.fixture
async def gateways(valkey: FaultyValkey, own_database_url: str, tmp_path: Path) -> AsyncIterator[list[DataPlane]]:
    database = Database(own_database_url, pool_size=8)
    redis_client = RedisClient(valkey.url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstreams.running())
        redis = await stack.enter_async_context(Redis.from_url(valkey.url))
        serving = []
        for number in range(2):
            places: dict[str, object] = {
                "database.url": own_database_url,
                "redis.url": valkey.proxy.through(valkey.url),
                "redis.partitions": PARTITIONS,
                "redis.timeout": f"{TIMEOUT_SECONDS}s",
                "data_dir": str(tmp_path / f"data-{number}"),
                "upstreams.main.targets": upstream.url,
            }
            config = load(Path(__file__).parent / "lost_redis.yaml", ENVIRON, overrides=places)
            running = data_planes.running(config, upstream, database=database, redis=redis, redis_client=redis_client)
            serving.append(await stack.enter_async_context(running))
        meter = Meter(redis_client, partitions=PARTITIONS, owner="worker")
        holds, journal = Holds(redis_client, PARTITIONS), Journal(redis_client, PARTITIONS)
        workers = (UsageWriter(database, journal), HoldSweeper(meter, holds), OutboxPublisher(database, meter))
        await stack.enter_async_context(Runner(*workers))
        yield serving
    await redis_client.close()
    await database.close()


@pytest.fixture(autouse=True)
async def _quiet_and_steady() -> AsyncIterator[None]:
    """Silences failing workers: rendering their tracebacks takes longer than a call may take."""
    with capture_logs(), steady_clock():
        yield


async def test_lost_redis_loses_doubles_and_overspends_nothing(valkey: FaultyValkey, gateways: list[DataPlane]) -> None:
    first = gateways[0]
    rich = [await first.create_account(credits=1_000_000) for _ in range(4)]
    limited = await first.create_account(credits=1_000_000, requests_per_minute=PER_MINUTE)
    poor: list[Account] = []
    load = Load(gateways, [*rich, limited])
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    random, back = seeded_random("faults"), []
    for number in range(ROUNDS):
        fault = list(Fault)[number % len(Fault)]
        poor.append(await first.create_account(credits=POOR_CREDITS))
        load.accounts = [*rich, limited, poor[-1]]
        await eventually(lambda: load.served(poor[-1]) > 3, timeout_seconds=BACK_SECONDS)
        load.is_suffering = True
        await valkey.suffer(fault, random.uniform(0.2, 0.8))
        load.is_suffering = False
        healed = monotonic_seconds()
        print(f"round {number}: {fault.value}")  # noqa: T201 - pytest shows it where the test fails
        await load.go_on(rich, within_seconds=BACK_SECONDS)
        back.append(monotonic_seconds() - healed)
    await asyncio.sleep(0.5)
    load.is_over = True
    await asyncio.gather(*clients)

    counts = Counter(status for (_, status), count in load.statuses.items() for _ in range(count))
    measured.append(
        f"Redis lost {ROUNDS} times: {counts[200]:,} calls served, {counts[503]:,} refused, the slowest answer after "
        f"{load.slowest_seconds * 1000:.0f} ms, back after {max(back):.1f} s at most"
    )
    assert set(counts) <= {200, 402, 429, 503}
    assert load.slowest_seconds < ANSWER_SECONDS
    assert [load.served(each) <= POOR_CREDITS for each in poor] == [True] * ROUNDS
    assert _most_in_a_minute(load.served_at[limited.user_id]) <= PER_MINUTE
    await _assert_the_books_agree(gateways, load, [*rich, limited, *poor])


def _most_in_a_minute(moments: list[float]) -> int:
    return max(sum(moment - 59 < each <= moment for each in moments) for moment in moments)


async def _assert_the_books_agree(gateways: list[DataPlane], load: Load, accounts: list[Account]) -> None:
    first = gateways[0]
    async with asyncio.timeout(AFTERMATH_SECONDS):
        while any(data_plane.handler._settler.pending for data_plane in gateways) or await _open_calls(first):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    query = text(
        "SELECT user_id, count(*), sum(credits_charged) FROM usage_tracking WHERE outcome = 'succeeded' GROUP BY 1"
    )
    async with first.database.read() as connection:
        rows = {row[0]: (row[1], row[2]) for row in await connection.execute(query)}
    assert rows == {each.user_id: (load.served(each),) * 2 for each in accounts if load.served(each)}
    reconciler = Reconciler(first.database, AccountSnapshotReader(first.redis_client, first.meter))
    assert [each async for page in reconciler.pages() for each in page.findings] == []


async def _open_calls(data_plane: DataPlane) -> int:
    """The number of calls that are not settled, or have no row yet."""
    return (
        await Holds(data_plane.redis_client, PARTITIONS).count()
        + await Journal(data_plane.redis_client, PARTITIONS).length()
    )
