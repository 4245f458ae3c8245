"""Three gateways on one Redis Cluster, in separate processes with skewed clocks.

One is `gateway serve` with its admin listener and its workers, two are `gateway proxy`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.layout import AccountState
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from tests.guarantees.faults.cluster import ClusterServers
from tests.guarantees.simulation.served_gateway import SECRETS

PARTITIONS = 16
SKEWS_SECONDS = (0, 5, 10)
START_SECONDS = 60.0  # only a failure waits so long
PATIENCE_SECONDS = 60.0
CLOCKS, ROOT = Path(__file__).parent / "clocks", Path(__file__).parents[3]
DOCUMENT = """
portal: {{enabled: false}}
redis: {{partitions: {partitions}, timeout: 100ms}}
upstreams: {{main: {{targets: ["{upstream}"]}}}}
routes: [{{name: call, match: {{path: /v1/**}}, upstream: main, price: {{credits: 1}}}}]
plans: [{{id: open, name: Open, price: 0}}]
"""


class Connection:
    """One client of one gateway, one request at a time or many written at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, url: str) -> Self:
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    def ask(self, key: str, request_ids: Sequence[str]) -> None:
        self._writer.write(b"".join(_request(key, request_id) for request_id in request_ids))

    async def answer(self) -> int:
        """The status of the next answer, which has been read to its end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await self._reader.readexactly(int(length))
        return int(head[9:12])

    async def call(self, key: str, request_id: str) -> int:
        self.ask(key, [request_id])
        return await self.answer()

    def close(self) -> None:
        self._writer.transport.abort()


def _request(key: str, request_id: str) -> bytes:
    lines = ("GET /v1/call HTTP/1.1", "host: gateway.test", f"x-api-key: {key}", f"x-request-id: {request_id}")
    return "\r\n".join((*lines, "", "")).encode()


@dataclass(frozen=True)
class Customer:
    user_id: UUID
    key: str
    key_id: UUID


@dataclass(frozen=True)
class Row:
    """Of usage_tracking; `created_at` is seconds since the epoch by the gateway's clock."""

    client_request_id: str
    outcome: str
    credits: int
    created_at: float


@dataclass(frozen=True)
class Gateways:
    urls: tuple[str, ...]
    admin: httpx.AsyncClient
    redis_client: RedisClient
    cluster: ClusterServers
    database_url: str

    async def customer(self, *, credits: int, **terms: Any) -> Customer:
        """A new customer on a plan with these terms."""
        plan = await self._post("/admin/v1/plans", {"name": f"plan-{uuid4().hex}", "price": "0", **terms})
        user = await self._post("/admin/v1/users", {"email": f"{uuid4().hex}@example.com", "plan": plan["name"]})
        await self._post(f"/admin/v1/users/{user['id']}/credits/grant", {"amount": credits, "reason": "test"})
        return await self.key_of(UUID(user["id"]))

    async def key_of(self, user_id: UUID) -> Customer:
        """The same customer with one key more."""
        made = await self._post("/admin/v1/keys", {"user_id": str(user_id)})
        return Customer(user_id, made["key"], UUID(made["id"]))

    async def revoke(self, customer: Customer) -> None:
        await self._post(f"/admin/v1/keys/{customer.key_id}/revoke", {})

    async def _post(self, path: str, body: object) -> Any:
        answer = await self.admin.post(path, json=body)
        assert answer.is_success, f"{path}: {answer.text}"
        return answer.json()

    async def settled(self) -> None:
        """Returns once there is no hold and the journal is in PostgreSQL."""
        holds, journal = Holds(self.redis_client, PARTITIONS), Journal(self.redis_client, PARTITIONS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with suppress(MeterUnavailable):
                    if not await holds.count() and not await journal.length():
                        return
                await asyncio.sleep(0.05)

    async def rows(self, customer: Customer) -> list[Row]:
        query = "SELECT client_request_id, outcome, credits_charged, created_at FROM usage_tracking WHERE user_id = $1"
        found = await self._fetch(query, customer.user_id)
        return [Row(name, outcome, charged, created_at.timestamp()) for name, outcome, charged, created_at in found]

    async def balance(self, customer: Customer) -> int:
        (row,) = await self._fetch("SELECT current_credits FROM user_credits WHERE user_id = $1", customer.user_id)
        return int(row["current_credits"])

    async def hot_balance(self, customer: Customer) -> int:
        """The balance in Redis; the account must be loaded."""
        keys = Meter(self.redis_client, partitions=PARTITIONS, owner="test").keys(customer.user_id)
        packed = await self.redis_client.call((b"HGET", keys.account, b"s"))
        return AccountState.unpack(packed).balance

    async def _fetch(self, query: str, user_id: UUID) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(query, user_id))
        finally:
            await connection.close()


@asynccontextmanager
async def running(
    folder: Path, cluster: ClusterServers, *, database_url: str, upstream_url: str
) -> AsyncIterator[Gateways]:
    """Until the end of the block."""
    (folder / "gateway.yaml").write_text(DOCUMENT.format(partitions=PARTITIONS, upstream=upstream_url))
    async with AsyncExitStack() as stack:
        parts = [("serve", SKEWS_SECONDS[0]), *(("proxy", skew) for skew in SKEWS_SECONDS[1:])]
        homes = [folder / f"{number} {role}" for number, (role, _) in enumerate(parts)]
        for home in homes:
            home.mkdir()
        stores = (cluster.url, database_url)
        said = [await _started(stack, home, part, stores) for home, part in zip(homes, parts, strict=True)]
        redis_client = RedisClient(cluster.url, timeout_seconds=5, scripts=SCRIPTS)
        await redis_client.open()
        stack.push_async_callback(redis_client.close)
        authority = {"Authorization": f"Bearer {SECRETS['GATEWAY_ADMIN_TOKEN']}"}
        admin = httpx.AsyncClient(base_url=said[0]["admin_url"], headers=authority, timeout=PATIENCE_SECONDS)
        await stack.enter_async_context(admin)
        urls = tuple(each["public_url"] for each in said)
        yield Gateways(urls, admin, redis_client, cluster, database_url)


async def _started(
    stack: AsyncExitStack, folder: Path, part: tuple[str, float], stores: tuple[str, str]
) -> dict[str, Any]:
    """What the process announces. It is ended with the stack."""
    role, skew_seconds = part
    places = {
        **SECRETS,
        "GATEWAY_REDIS__URL": stores[0],
        "GATEWAY_DATABASE__URL": stores[1],
        "GATEWAY_SERVER__PUBLIC": "127.0.0.1:0",
        "GATEWAY_SERVER__ADMIN": "127.0.0.1:0",
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "TEST_CLOCK_SKEW_SECONDS": str(skew_seconds),
        "PYTHONPATH": os.pathsep.join((str(CLOCKS), str(ROOT))),
    }
    command = [sys.executable, "-m", "gateway", role, "--config", str(folder.parent / "gateway.yaml"), "--json"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=log
        )
    stack.push_async_callback(_end, process)
    assert process.stdout is not None
    said = json.loads(await asyncio.wait_for(process.stdout.readline(), START_SECONDS) or b"{}")
    assert said, (folder / "log").read_text()
    return dict(said)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


async def calls_in_a_crowd(
    urls: Sequence[str], customer: Customer, *, connections: int, each: int, name: str
) -> Counter[int]:
    """Statuses of so many calls of one key, all of them written before the first answer is read."""
    opened = [await Connection.to(urls[number % len(urls)]) for number in range(connections)]
    for number, connection in enumerate(opened):
        connection.ask(customer.key, [f"{name}-{number}-{call}" for call in range(each)])

    async def answers(connection: Connection) -> list[int]:
        return [await connection.answer() for _ in range(each)]

    received = await asyncio.gather(*(answers(connection) for connection in opened))
    for connection in opened:
        connection.close()
    return Counter(status for statuses in received for status in statuses)
