"""Gateways on stores that are backed up, restored, failed over and replaced while they serve."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from redis.asyncio import Redis
from sqlalchemy import TextClause, text

from gateway.config import load
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.client.client import RedisClient
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.runner import Runner
from gateway.workers.usage.hold_sweeper import HoldSweeper
from gateway.workers.usage.reconciliation import Finding, Reconciler
from gateway.workers.usage.store_watch import PostgresEpochRegister, StoreWatch
from gateway.workers.usage.usage_writer import UsageWriter
from tests.guarantees.faults.proxy import FaultProxy
from tests.guarantees.simulation.faulty_valkey import FaultyValkey
from tests.proxy import data_plane as data_planes
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.upstream import ScriptedUpstream
from tests.support import databases

PARTITIONS = 4
GATEWAYS = 2
CLIENTS = 4
NOTICED_SECONDS = 3.0  # six looks at both stores
EPOCHS = "SELECT partition, epoch FROM meter_epochs"
ENVIRON = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
CONFIG = Path(__file__).parent.parent / "chaos" / "lost_redis.yaml"


@dataclass
class Postgresql:
    """One database of a server that others use too. A restore is what `pg_restore` into a new database leaves."""

    url: str
    copies: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    async def back_up(self) -> str:
        """A copy of this moment. Ends all connections, for PostgreSQL copies no database that is in use."""
        copy = f"{self.name}_{len(self.copies)}"
        async with self._server() as connection:
            await databases.end_connections(connection, self.name)
            await databases.copy(connection, self.name, copy)
            await connection.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")
        self.copies.append(copy)
        return copy

    async def restore(self, copy: str) -> None:
        async with self._server() as connection:
            await databases.drop(connection, self.name)
            await databases.copy(connection, copy, self.name)

    async def epochs(self, copy: str) -> dict[int, int]:
        """The number of each partition's epoch in a copy."""
        connection = await asyncpg.connect(f"{self.url.rpartition('/')[0]}/{copy}")
        try:
            return {row["partition"]: row["epoch"] for row in await connection.fetch(EPOCHS)}
        finally:
            await connection.close()

    async def drop_copies(self) -> None:
        async with self._server() as connection:
            for copy in self.copies:
                await databases.drop(connection, copy)

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(f"{self.url.rpartition('/')[0]}/postgres")
        try:
            yield connection
        finally:
            await connection.close()


@dataclass
class Served:
    """The calls that an account was served since PostgreSQL was last restored, by the id of their rows."""

    calls: dict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    given: dict[UUID, int] = field(default_factory=dict)  # the credits there were then, and those granted since


@dataclass
class Site:
    """Two gateways and a worker, on one PostgreSQL and one of two servers of Redis.

    `served` begins again with each restore, from the moment at which a gateway has noticed it.
    """

    gateways: list[DataPlane]
    postgresql: Postgresql
    redis: list[FaultyValkey]
    proxy: FaultProxy
    accounts: list[Account]
    random: Random
    served: Served = field(default_factory=Served)
    refused_since: dict[UUID, float] = field(default_factory=dict)
    longest_refusal: float = 0.0
    statuses: set[int] = field(default_factory=set)
    calls: int = 0
    active: int = 0  # of `redis`
    is_over: bool = False
    is_in_history: bool = True

    @property
    def first(self) -> DataPlane:
        return self.gateways[0]

    async def client(self, number: int) -> None:
        """Calls any account by any gateway, again and again."""
        random, loop = Random(f"{self.random.random()} {number}"), asyncio.get_running_loop()  # noqa: S311
        while not self.is_over:
            account, served, counts = random.choice(self.accounts), self.served, self.is_in_history
            answer = await random.choice(self.gateways).get(account)
            self.calls += 1
            self.statuses.add(answer.status_code)
            if answer.status_code == 503:
                since = self.refused_since.setdefault(account.user_id, loop.time())
                self.longest_refusal = max(self.longest_refusal, loop.time() - since)
            else:
                self.refused_since.pop(account.user_id, None)
            if answer.status_code == 200 and counts:
                served.calls[account.user_id].append(answer.headers["x-request-id"])
            await asyncio.sleep(random.uniform(0, 0.08))

    async def grant(self, account: Account, amount: int) -> None:
        await self.first.grant_credits(account, amount)
        self.served.given[account.user_id] += amount

    async def flip(self) -> None:
        """Redis is another server from now on, which was not told of anything meanwhile."""
        self.active = 1 - self.active
        self.proxy.lead_to(self.redis[self.active].endpoint.port)

    async def restore_postgresql(self, copy: str) -> None:
        """Returns when the gateways have noticed; they notice nothing where nothing was lost.

        What is served until then is not counted: nobody could know.
        """
        self.is_in_history = False
        before = await self.postgresql.epochs(copy)
        await self.postgresql.restore(copy)
        with suppress(TimeoutError):
            async with asyncio.timeout(NOTICED_SECONDS):
                while await self._epochs() == before:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.02)
        given = await self._credits()
        self.served, self.is_in_history = Served(given=given), True

    async def begin_history(self) -> None:
        self.served = Served(given=await self._credits())

    async def _credits(self) -> dict[UUID, int]:
        query = text("SELECT user_id, current_credits FROM user_credits")
        return {row.user_id: row.current_credits for row in await self.rows(query)}

    async def _epochs(self) -> dict[int, int]:
        return {row.partition: row.epoch for row in await self.rows(text(EPOCHS))}

    async def rows(self, query: TextClause) -> list[Any]:
        """Waits for a PostgreSQL that comes back."""
        async with asyncio.timeout(10):
            while True:
                try:
                    async with self.first.database.read() as connection:
                        return list(await connection.execute(query))
                except DatabaseUnavailable:
                    await asyncio.sleep(0.05)

    async def settle(self) -> None:
        """Returns when every call has ended in PostgreSQL."""
        async with asyncio.timeout(60):
            while await self._is_unsettled():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)

    async def _is_unsettled(self) -> bool:
        client = self.first.redis_client
        return bool(
            any(each.handler._settler.pending for each in self.gateways)
            or await Holds(client, PARTITIONS).count()
            or await Journal(client, PARTITIONS).length()
            or await self.rows(text("SELECT 1 FROM outbox LIMIT 1"))
        )

    async def findings(self) -> list[Finding]:
        reconciler = Reconciler(self.first.database, AccountSnapshotReader(self.first.redis_client, self.first.meter))
        return [each async for page in reconciler.pages() for each in page.findings]


@asynccontextmanager
async def running(
    folder: Path, redis: list[FaultyValkey], upstream: ScriptedUpstream, *, database_url: str, random: Random
) -> AsyncIterator[Site]:
    """A site with accounts, whose clients call for as long as the block lasts."""
    for each in redis:
        await each.admin.flushall()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", redis[0].endpoint.port))
        url = proxy.through(redis[0].url)
        database, client = Database(database_url, pool_size=8), RedisClient(url, timeout_seconds=2, scripts=SCRIPTS)
        stack.push_async_callback(database.close)
        await client.open()
        stack.push_async_callback(client.close)
        admin = await stack.enter_async_context(Redis.from_url(url))
        gateways = []
        for _ in range(GATEWAYS):
            places: dict[str, object] = {
                "database.url": database_url,
                "redis.url": url,
                "redis.partitions": PARTITIONS,
                "redis.timeout": "0.5s",
                "data_dir": str(folder / uuid4().hex),
                "upstreams.main.targets": upstream.url,
            }
            config = load(CONFIG, ENVIRON, overrides=places)
            serving = data_planes.running(config, upstream, database=database, redis=admin, redis_client=client)
            gateways.append(await stack.enter_async_context(serving))
        meter = Meter(client, partitions=PARTITIONS, owner="worker", register=PostgresEpochRegister(database))
        workers = (
            UsageWriter(database, Journal(client, PARTITIONS)),
            HoldSweeper(meter, Holds(client, PARTITIONS)),
            OutboxPublisher(database, meter),
            StoreWatch(meter),
        )
        await stack.enter_async_context(Runner(*workers))
        accounts = [await gateways[0].create_account(credits=given) for given in (1_000_000, 1_000_000, 60, 200)]
        site = Site(gateways, Postgresql(database_url), redis, proxy, accounts, random)
        stack.push_async_callback(site.postgresql.drop_copies)
        await site.begin_history()
        clients = [asyncio.create_task(site.client(number)) for number in range(CLIENTS)]
        try:
            yield site
        finally:
            site.is_over = True
            await asyncio.gather(*clients)
