"""A whole installation whose parts can be killed one by one: two gateways, a worker, Valkey, and a proxy on every wire.

PostgreSQL is the suite's own or one of the test's. The upstream and the clients are of the test's process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from secrets import token_bytes
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from redis.asyncio import Redis

from gateway.cli.installation import prepare
from gateway.clock import now
from gateway.config import Config, load
from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle
from gateway.runtime.stores import StoreUrls
from policies.access.keys import ENTROPY_BYTES, compose
from tests.guarantees.faults import records
from tests.guarantees.faults.parts import Role, Store, forking
from tests.guarantees.faults.proxy import FaultProxy
from tests.guarantees.simulation.paced_clients import Customer, PacedClients, Upstream
from tests.guarantees.simulation.served_gateway import SECRETS

PARTITIONS = 8
GRANTED = 10_000_000
LIMIT_PER_MINUTE = 300
SETTLED_SECONDS = 60.0  # a lease, its sweep, and the writer's last batch take half of it
ASK_SECONDS = 0.25
DOCUMENT = f"""
redis: {{partitions: {PARTITIONS}, timeout: 1s}}
keys: {{prefix: gw}}
upstreams: {{up: {{targets: ["http://127.0.0.1:9"]}}}}
routes: [{{name: call, match: {{path: /v1/call, methods: [POST]}}, upstream: up, usage_type: call,
          price: {{credits: {records.PRICE}}}}}]
plans:
  - {{id: open, name: Open, price: 0}}
  - {{id: narrow, name: Narrow, price: 0, requests_per_minute: {LIMIT_PER_MINUTE}}}
"""


@dataclass
class Installation:
    """`wires` are named after their ends: `gateway-1 redis`, `worker postgres`, `gateway-2 upstream`, .."""

    parts: Mapping[str, Role | Store]
    wires: Mapping[str, FaultProxy]
    upstream: Upstream
    callers: PacedClients
    database_url: str
    redis_url: str
    folder: Path
    narrow: Customer

    async def records(self) -> records.Records:
        """The records once all calls are settled and stored. Raises TimeoutError if they never are."""
        for part in self.parts.values():
            await part.restored()
        await self.settled()
        async with _connected(self.database_url) as connection, Redis.from_url(self.redis_url) as redis:
            async with asyncio.timeout(SETTLED_SECONDS):
                while not await records.are_hot(redis, (customer.user_id for customer in self.callers.customers)):
                    await self.callers.call_once()
                    await self.settled()
            open_holds, journaled = await records.left_in(redis)
            return records.Records(
                calls=self.callers.calls,
                reached=self.upstream.reached,
                rows=await records.rows_of(connection),
                books=await records.books_of(connection, redis),
                open_holds=open_holds,
                journaled=journaled,
                limits={self.narrow.user_id: LIMIT_PER_MINUTE},
            )

    async def settled(self) -> None:
        """Returns when nothing is held, journaled or spooled. Raises TimeoutError."""
        async with asyncio.timeout(SETTLED_SECONDS), Redis.from_url(self.redis_url) as redis:
            while any(await records.left_in(redis)) or self._spooled():  # noqa: ASYNC110 - of processes
                await asyncio.sleep(ASK_SECONDS)

    def _spooled(self) -> bool:
        return any(path.stat().st_size for path in self.folder.glob("data/spool/*.spool2"))


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def installed(
    folder: Path, *, database_url: str, chance: Random, slowness_seconds: float
) -> AsyncIterator[Installation]:
    """Starts the installation; no client calls yet."""
    (folder / "gateway.yaml").write_text(DOCUMENT)
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(_valkey(folder))
        upstream = await stack.enter_async_context(Upstream(chance, slowness_seconds=slowness_seconds).serving())
        redis_url = f"redis://:{valkey.endpoint.password}@127.0.0.1:{valkey.endpoint.port}/0"
        ends = {
            "redis": ("127.0.0.1", valkey.endpoint.port),
            "postgres": _address(database_url),
            "upstream": ("127.0.0.1", upstream.port),
        }
        config = load(folder / "gateway.yaml", {**SECRETS, "GATEWAY_DATABASE__URL": database_url})
        await prepare(config, StoreUrls(database_url, redis_url))
        roles = {"worker": "worker", "gateway-1": "proxy", "gateway-2": "proxy"}
        wires = {
            f"{name} {end}": await stack.enter_async_context(FaultProxy(*address))
            for name in roles
            for end, address in ends.items()
        }
        forks = await stack.enter_async_context(forking(folder))  # stops before its wires, so that it can settle
        parts: dict[str, Role | Store] = {"valkey": valkey}
        for name, role in roles.items():
            places = {
                **SECRETS,
                "GATEWAY_DATABASE__URL": wires[f"{name} postgres"].through(database_url),
                "GATEWAY_REDIS__URL": wires[f"{name} redis"].through(redis_url),
                "GATEWAY_UPSTREAMS__UP__TARGETS": json.dumps([f"http://127.0.0.1:{wires[f'{name} upstream'].port}"]),
                "GATEWAY_DATA_DIR": str(folder / "data"),
            }
            parts[name] = await forks.start(name, role, places)
        customers = [await _customer(config, plan) for plan in ("open", "open", "open", "narrow")]
        urls = [part.url for part in parts.values() if isinstance(part, Role) and part.url is not None]
        callers = PacedClients(urls, customers, chance)
        yield Installation(parts, wires, upstream, callers, database_url, redis_url, folder, customers[-1])


@asynccontextmanager
async def _valkey(folder: Path) -> AsyncIterator[Store]:
    data = folder / "valkey store"
    data.mkdir()
    store = Store("valkey", Valkey(data, durable=True), choose(None).valkey, data / "valkey.lock")
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def _customer(config: Config, plan: str) -> Customer:
    database = Database(config.database.url)
    new = compose(config.keys.prefix, token_bytes(ENTROPY_BYTES))
    async with database.transaction() as connection:
        user = await users.create(connection, f"{uuid4().hex}@example.com")
        await lifecycle.start(connection, user.id, plan_id=plan, now=now())
        await api_keys.create(connection, user.id, fingerprint=api_keys.fingerprint(new, config.secrets.peppers))
        await grants.grant(connection, user.id, amount=GRANTED, source="purchase", reason="test", actor="test")
    await database.close()
    return Customer(user.id, new.secret)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
