"""A running data plane on real stores: its clients, its accounts, their state in Redis, their rows in PostgreSQL."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from secrets import token_bytes
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
from redis.asyncio import Redis
from sqlalchemy import text

from gateway.clock import now
from gateway.config import Config
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.api_keys import ApiKey, KeySettings
from gateway.ledger.catalogue import plans
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle
from gateway.meter.client.client import RedisClient
from gateway.meter.journal import Journal
from gateway.meter.layout import AccountState
from gateway.meter.meter import Meter
from gateway.proxy.handler import Handler
from gateway.runtime.data_plane import data_plane
from gateway.runtime.roles import public_server
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.usage_writer import UsageWriter
from policies.access.keys import ENTROPY_BYTES, compose
from tests.proxy.upstream import ScriptedUpstream
from tests.support.redis_timeouts import short_redis_timeout

ANSWER_SECONDS = 10.0  # only a failing test waits so long


@dataclass(frozen=True)
class Account:
    """A user with an API key, on a plan of its own."""

    user_id: UUID
    plan: plans.StoredPlan
    key: str
    key_id: UUID
    subscription_id: UUID | None

    @property
    def auth(self) -> dict[str, str]:
        return {"x-api-key": self.key}


@dataclass(frozen=True)
class RedisState:
    """The state of an account in Redis; `used` per minute, hour and day."""

    balance: int
    in_flight: int
    used: tuple[int, int, int]


@dataclass(frozen=True)
class DataPlane:
    url: str
    config: Config
    handler: Handler
    upstream: ScriptedUpstream
    database: Database
    redis: Redis
    meter: Meter
    redis_client: RedisClient
    http: httpx.AsyncClient

    # Accounts.

    async def create_account(
        self, *, credits: int = 100, key: KeySettings | None = None, subscribed: bool = True, **terms: Any
    ) -> Account:
        """A new account on a new plan of these terms; Redis loads it at its first request."""
        plan_terms = plans.PlanTerms(**{"name": f"plan-{uuid4().hex}", "price": Decimal(1), **terms})
        new = compose(self.config.keys.prefix, token_bytes(ENTROPY_BYTES))
        fingerprint = api_keys.fingerprint(new, self.config.secrets.peppers)
        subscription = None
        async with self.database.transaction() as connection:
            plan = await plans.create(connection, plan_terms)
            user = await users.create(connection, f"{uuid4().hex}@example.com")
            if subscribed:
                subscription = await lifecycle.start(connection, user.id, plan_id=plan.id, now=now())
            made = await api_keys.create(connection, user.id, fingerprint=fingerprint, **(key or {}))
            if credits:
                await _grant(connection, user.id, credits)
        return Account(user.id, plan, new.secret, made.id, subscription.id if subscription else None)

    async def create_key(self, account: Account, **settings: Any) -> tuple[str, ApiKey]:
        """Another key of an account: its secret, and its row."""
        new = compose(self.config.keys.prefix, token_bytes(ENTROPY_BYTES))
        fingerprint = api_keys.fingerprint(new, self.config.secrets.peppers)
        async with self.database.transaction() as connection:
            made = await api_keys.create(connection, account.user_id, fingerprint=fingerprint, **settings)
        return new.secret, made

    async def grant_credits(self, account: Account, amount: int) -> None:
        async with self.database.transaction() as connection:
            await _grant(connection, account.user_id, amount)

    async def change_plan(self, account: Account, **terms: Any) -> None:
        """Changes these terms of the account's plan."""
        async with self.database.transaction() as connection:
            found = await plans.get(connection, account.plan.id)
            assert found is not None
            await plans.change(connection, found.id, replace(found.terms, **terms))

    async def publish(self) -> None:
        await OutboxPublisher(self.database, self.meter).publish_all()

    # Redis.

    async def redis_state(self, account: Account) -> RedisState:
        packed = await self.redis.hget(self.meter.keys(account.user_id).account.decode(), "s")
        assert isinstance(packed, bytes), "the account is not loaded"
        state = AccountState.unpack(packed)
        minute, hour, day = (window.used for window in state.windows)
        return RedisState(state.balance, state.in_flight, (minute, hour, day))

    async def holds(self, account: Account) -> list[bytes]:
        values = await self.redis.hvals(self.meter.keys(account.user_id).holds.decode())
        return [value for value in values if isinstance(value, bytes) and _mentions(value, account)]

    async def settled_state(self, account: Account) -> RedisState:
        """The state in Redis once every call of the account has been settled."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while not _is_settled(state := await self.redis_state(account), await self.holds(account)):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
        return state

    @asynccontextmanager
    async def assert_unchanged(self, account: Account) -> AsyncIterator[None]:
        """Within the block nothing is counted, held or charged, and no request reaches the upstream."""
        before = await self._snapshot(account)
        yield
        assert await self._snapshot(account) == before

    async def _snapshot(self, account: Account) -> tuple[Any, ...]:
        where = self.meter.keys(account.user_id)
        state = await self.redis.hgetall(where.account.decode())
        journal = [each for each in await self.redis.xrange(where.journal.decode()) or () if _mentions(each, account)]
        return state, await self.holds(account), journal, len(self.upstream.exchanges)

    def short_redis_timeout(self) -> AbstractContextManager[None]:
        """Within the block Redis has a tenth of a second to answer the gateway, whatever its configuration says."""
        return short_redis_timeout(self.handler._admission._meter._redis, timeout_seconds=0.1)

    # PostgreSQL.

    async def usage_rows(self, account: Account) -> list[Mapping[str, Any]]:
        """The account's rows of usage_tracking, oldest first, once the journal is written."""
        await self._write_journal()
        return await self._rows("usage_tracking", "user_id", account.user_id, "created_at, request_id")

    async def usage_row(self, account: Account) -> Mapping[str, Any]:
        """The account's only row of usage_tracking."""
        (row,) = await self.usage_rows(account)
        return row

    async def analysis_rows(self, account: Account) -> list[Mapping[str, Any]]:
        """The account's rows of analysis_history, oldest first."""
        await self._write_journal()
        return await self._rows("analysis_history", "user_id", account.user_id, "created_at, request_id")

    async def refusal_counts(self, account: Account) -> dict[tuple[str, str], int]:
        """How often the account's key was refused, by (endpoint, code)."""
        await self.handler.telemetry.run_once()
        rows = await self._rows("refused_requests", "api_key_id", account.key_id, "code")
        return {(row["endpoint"], row["code"]): row["count"] for row in rows}

    async def stored_balance(self, account: Account) -> int:
        await self._write_journal()
        async with self.database.read() as connection:
            found = await grants.get_balance(connection, account.user_id)
        assert found is not None
        return found.current_credits

    async def _write_journal(self) -> None:
        writer = UsageWriter(self.database, Journal(self.redis_client, self.config.redis.partitions))
        while await writer.run_once():
            pass

    async def _rows(self, table: str, column: str, value: UUID, order: str) -> list[Mapping[str, Any]]:
        query = text(f"SELECT * FROM {table} WHERE {column} = :value ORDER BY {order}")  # noqa: S608 - our own names
        async with self.database.read() as connection:
            return [dict(row) for row in (await connection.execute(query, {"value": value})).mappings()]

    # Clients.

    async def get(self, account: Account, path: str = "/v1/things/1", **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=account.auth | _dashed(headers))

    async def post(
        self, account: Account, path: str = "/v1/things/1", content: bytes = b"{}", **headers: str
    ) -> httpx.Response:
        return await self.http.post(path, content=content, headers=account.auth | _dashed(headers))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[RawConnection]:
        """A raw client connection."""
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            yield RawConnection(reader, writer)
        finally:
            writer.transport.abort()


@dataclass(frozen=True)
class RawConnection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, account: Account, line: str, *fields: str, body: bytes = b"") -> None:
        """Sends a request line, the key, Host and other fields; `body` with its length only if it is not empty."""
        length = [f"content-length: {len(body)}"] if body else []
        head = [f"{line} HTTP/1.1", "host: gateway.test", f"x-api-key: {account.key}", *fields, *length, "", ""]
        await self.send("\r\n".join(head).encode() + body)

    async def read_until(self, marker: bytes) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self.reader.readuntil(marker)

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """The status and the fields of a response, by lower-cased name."""
        line, *lines = (await self.read_until(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (each.partition(":") for each in lines)
        return int(line.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def read_rest(self) -> bytes:
        """Everything until the gateway closes or resets the connection."""
        async with asyncio.timeout(ANSWER_SECONDS):
            data = b""
            try:
                while chunk := await self.reader.read(65536):
                    data += chunk
            except ConnectionResetError:
                pass
            return data

    def disconnect(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def running(
    config: Config, upstream: ScriptedUpstream, *, database: Database, redis: Redis, redis_client: RedisClient
) -> AsyncIterator[DataPlane]:
    """The data plane as the process serves it; the test has store clients of its own."""
    async with data_plane(config) as handler:
        listener = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio leaves Nagle on
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = public_server(handler, config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()
        meter = Meter(redis_client, partitions=config.redis.partitions, owner="test")
        async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, trust_env=False) as http:
            yield DataPlane(url, config, handler, upstream, database, redis, meter, redis_client, http)
        server.should_exit = True
        await serving
        await server.drained()


async def _grant(connection: Any, user_id: UUID, amount: int) -> None:
    await grants.grant(connection, user_id, amount=amount, source="purchase", reason="test", actor="test")


def _is_settled(state: RedisState, holds: list[bytes]) -> bool:
    return state.in_flight == 0 and not holds


def _mentions(stored: object, account: Account) -> bool:
    return str(account.user_id) in repr(stored)


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def one_more(beside: DataPlane) -> AbstractAsyncContextManager[DataPlane]:
    """On the same stores and upstream, to be stopped by itself."""
    return running(
        beside.config,
        beside.upstream,
        database=beside.database,
        redis=beside.redis,
        redis_client=beside.redis_client,
    )
