"""The admin API on stores of this package, so that versions in Redis are those of its one database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from secrets import token_bytes
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.types import ASGIApp

from gateway.api.admin import build_admin
from gateway.api.checkout import CheckoutService
from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from gateway.ledger.accounts import principals
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.admissions import Admission
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.runtime.control_plane import reconciliation
from gateway.workers.outbox import OutboxPublisher
from policies.access.limits import Limits
from policies.billing.money import CreditValue
from policies.model import Route
from policies.pricing.price import Price
from policies.pricing.units import CountSource, PriceUnit
from policies.usage import records

TOKEN = "admin-token-of-the-tests"
PEPPERS = {1: b"old pepper", 2: b"new pepper"}
UNLIMITED = Limits((None, None, None), None)


@dataclass(frozen=True)
class KnownVersions:
    """What a gateway knows of an account at some moment."""

    account_version: int
    catalogue_version: int
    balance: int


@dataclass
class AdminApi:
    """The admin API with all that stands behind it. `missing` is what /readyz is told."""

    app: ASGIApp
    client: httpx.AsyncClient
    database: Database
    meter: Meter
    missing: dict[str, str]

    async def call(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that must have this status."""
        response = await self.client.request(method, f"/admin/v1{path}", **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def get(self, path: str, **params: Any) -> Any:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: dict[str, Any] | None = None, *, status: int = 200) -> Any:
        return await self.call("POST", path, status=status, json=body)

    async def create_user(self, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self.post("/users", {"email": f"{uuid4().hex}@example.com", **fields}, status=201)
        return made

    async def create_key(self, user_id: str, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self.post("/keys", {"user_id": user_id, **fields}, status=201)
        return made

    async def pages(self, path: str, *, limit: int, **params: Any) -> list[dict[str, Any]]:
        """All of a list, page by page."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        for _ in range(1000):
            page = await self.get(path, limit=limit, **params, **cursor)
            assert len(page["data"]) <= limit
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}
        raise AssertionError("the list does not end")

    async def audit(self, entity_id: str) -> list[dict[str, Any]]:
        """What was noted of a thing, oldest first."""
        return list(reversed((await self.get("/audit-log", entity_id=entity_id, limit=500))["data"]))

    async def load_account(self, user_id: str) -> KnownVersions:
        """Makes the account hot in Redis; gives what a gateway knows now."""
        async with self.database.read() as connection:
            balance = await principals.get_balance(connection, UUID(user_id))
            catalogue = await principals.get_catalogue(connection)
        assert balance is not None
        known = KnownVersions(balance.account_version, catalogue.version, balance.current_credits)
        assert await self.meter.load(
            self.meter.keys(UUID(user_id)),
            account_version=known.account_version,
            credit_seq=balance.credit_seq,
            balance=known.balance,
            catalogue_version=known.catalogue_version,
        )
        return known

    async def admit(self, user_id: str, known: KnownVersions) -> Admission:
        """A call decided on what was known."""
        request_id = str(uuid4())
        return await self.meter.admit(
            self.meter.keys(UUID(user_id)),
            request_id=request_id,
            account_version=known.account_version,
            catalogue_version=known.catalogue_version,
            amount=0,
            required=0,
            limits=UNLIMITED,
            prefix=prefix_of_user(user_id),
        )

    async def balance(self, user_id: str) -> int:
        async with self.database.read() as connection:
            found = await grants.get_balance(connection, UUID(user_id))
        assert found is not None
        return found.current_credits


def prefix_of_user(user_id: str, **more: str | int | None) -> str:
    """The prefix of a call's record, as far as a reconciliation reads it."""
    known: dict[str, str | int | None] = {"user_id": user_id, **more}
    return records.prefix_of(known)


@pytest.fixture(scope="package")
async def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    endpoint = choose(None).valkey
    valkey = Valkey(tmp_path_factory.mktemp("valkey"), durable=False)
    await valkey.start(endpoint)
    yield f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0"
    await valkey.stop()


@pytest.fixture(scope="package")
async def ledger(new_database_url: Callable[[], Awaitable[str]]) -> AsyncIterator[Database]:
    database = Database(await new_database_url())
    yield database
    await database.close()


@pytest.fixture(scope="package")
async def admin_api(ledger: Database, valkey_url: str) -> AsyncIterator[AdminApi]:
    redis_client = RedisClient(valkey_url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    meter = Meter(redis_client, partitions=4, owner="admin")
    missing: dict[str, str] = {}
    app = admin_app(ledger, OutboxPublisher(ledger, meter).publish_all, missing=missing, redis_client=redis_client)
    async with client_of(app) as client:
        yield AdminApi(app, client, ledger, meter, missing)
    await redis_client.close()


ROUTES = (
    Route("analyze", "/v1/analyze", frozenset({"POST"}), "main", "analysis", Price(Decimal(1)), permission="analyze"),
    Route(
        "generate",
        "/v1/generate",
        frozenset({"POST"}),
        "main",
        "ai_generation",
        Price(Decimal(2), unit=PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/products",)),
        feature="ai_generation",
        max_body_bytes=1000,
    ),
    Route(
        "chat",
        "/v1/chat",
        frozenset({"POST"}),
        "main",
        "x",
        Price(Decimal(1), unit=PriceUnit.TOKEN, unit_size=1000, hold=5),
    ),
)


_EXPORTS = TemporaryDirectory(prefix="gateway-exports-")  # gone with the process


def admin_app(
    database: Database,
    publish: Any,
    *,
    missing: dict[str, str],
    redis_client: RedisClient | None = None,
    checkout_service: CheckoutService | None = None,
    hosts: Sequence[str] = (),
    peppers: Mapping[int, bytes] = PEPPERS,
    portal_url: str | None = None,
    return_origins: tuple[str, ...] = (),
) -> ASGIApp:
    redis_client = redis_client or RedisClient("redis://127.0.0.1:1/0", timeout_seconds=1, scripts=SCRIPTS)
    meter = Meter(redis_client, partitions=4, owner="admin")

    async def readiness() -> dict[str, str]:
        return missing

    return build_admin(
        database=database,
        publish=publish,
        admin_token=TOKEN,
        key_prefix="gw",
        peppers=peppers,
        entropy=token_bytes,
        meter=meter,
        routes={route.name: route for route in ROUTES},
        targets={"main": ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]},
        credit_value=CreditValue("USD", Decimal(100_000)),
        past_due_grace=timedelta(days=3),
        reconcile_books=reconciliation(database, AccountSnapshotReader(redis_client, meter)),
        metrics_text=metrics_text,
        readiness=readiness,
        checkout_service=checkout_service,
        hosts=hosts,
        portal_url=portal_url,
        return_origins=return_origins,
        export_dir=Path(_EXPORTS.name),
    )


async def metrics_text() -> bytes:
    return b"gateway_build_info 1.0\n"


def client_of(app: ASGIApp, token: str | None = TOKEN) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"} if token is not None else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers)
