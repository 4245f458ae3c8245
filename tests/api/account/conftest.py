"""The account API on stores of this package."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from secrets import token_bytes
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.types import ASGIApp

from gateway.api.account import account_dependencies, build_account
from gateway.api.account.dependencies import Lifetimes
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.checkout import CheckoutService
from gateway.clock import now
from gateway.ledger.accounts import login_sessions, users
from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher
from policies.access.tokens import REFRESH_BYTES, Purpose, digest, one_time, refresh_token
from policies.billing.money import CreditValue
from policies.model import Route
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import UsageClass
from tests.ledger.make import list_notifications

SECRET = "secret-of-the-tests"
PEPPERS = {1: b"pepper"}
PASSWORD = "correct horse battery"
HASH = "$argon2id$v=19$m=19456,t=2,p=1$54Ln18JlZ4HMouCD7c2teA$iXuS+F5m/s8peUnOe+v7bhiv3iJLUnkQ3MAMN2ADY7w"
LIFETIMES = Lifetimes(
    access=timedelta(minutes=15),
    refresh=timedelta(days=30),
    verify_email=timedelta(days=3),
    reset_password=timedelta(hours=1),
)
ROUTES = {
    "analyze": Route(
        name="analyze",
        path="/v1/analyze",
        methods=frozenset({"POST"}),
        upstream="main",
        usage_type="analysis",
        feature="analysis",
        price=Price(credits=Decimal(1), unit=PriceUnit.CALL),
        max_body_bytes=1000,
    ),
    "generate": Route(
        name="generate",
        path="/v1/generate",
        methods=frozenset({"POST"}),
        upstream="main",
        usage_type="ai_generation",
        price=Price(credits=Decimal(2), unit=PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/products",)),
    ),
    "models": Route(
        name="models",
        path="/v1/models",
        methods=frozenset({"GET"}),
        upstream="",
        usage_type="api_call",
        price=PriceList("openai", ReaderName.OPENAI, {"gpt-5": ModelPrice({UsageClass.INPUT: Decimal(1)})}, minimum=1),
        serves_models=True,
    ),
}
TOKENS = AccessTokens(SECRET, lifetime=LIFETIMES.access)
_addresses = itertools.count(1)


@dataclass
class Customer:
    """A user with a session, and a client that sends its access token."""

    email: str
    id: UUID
    tokens: dict[str, Any]
    client: httpx.AsyncClient

    async def call(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that must have this status."""
        response = await self.client.request(method, path, **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def get(self, path: str, *, status: int = 200, **params: Any) -> Any:
        return await self.call("GET", path, status=status, params=params)

    async def post(self, path: str, body: dict[str, Any] | None = None, *, status: int = 200) -> Any:
        return await self.call("POST", path, status=status, json=body)


@dataclass
class AccountApi:
    """The account API with all that stands behind it."""

    app: ASGIApp
    database: Database
    meter: Meter
    redis_client: RedisClient
    client: httpx.AsyncClient

    def new_client(self) -> httpx.AsyncClient:
        """A client with an address of its own, signed in as nobody."""
        return client_of(self.app)

    async def call(self, path: str, body: dict[str, Any], *, status: int) -> Any:
        response = await self.client.post(path, json=body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def customer(self, **fields: Any) -> Customer:
        """A user with a session and an address of its own. Not by logging in: hashing takes long on purpose."""
        email, secret = fields.pop("email", f"{uuid4().hex}@example.com"), refresh_token(token_bytes(REFRESH_BYTES))
        client = self.new_client()
        async with self.database.transaction() as connection:
            user = await users.create(connection, email, password_hash=HASH, **fields)
            session_id = await login_sessions.create(
                connection, user.id, token_hash=digest(secret), expires_at=now() + LIFETIMES.refresh, address=None
            )
        tokens = TOKENS.pair(user.id, session_id, refresh_token=secret).model_dump()
        client.headers["authorization"] = f"Bearer {tokens['access_token']}"
        return Customer(email, user.id, tokens, client)

    async def log_in(self, email: str, password: str = PASSWORD) -> Customer:
        """One more session, from an address of its own."""
        client = self.new_client()
        response = await client.post("/auth/login", json={"email": email, "password": password})
        assert response.status_code == 200, response.text
        tokens = response.json()
        client.headers["authorization"] = f"Bearer {tokens['access_token']}"
        me = (await client.get("/me")).json()
        return Customer(email, UUID(me["id"]), tokens, client)

    async def verify(self, customer: Customer) -> None:
        """Proves the address by the mail."""
        await customer.post("/me/verify-email", status=202)
        token = await self.mailed_token(customer.id, Purpose.VERIFY_EMAIL)
        await self.call("/auth/verify-email", {"token": token}, status=204)

    async def notifications_of(self, user_id: UUID) -> list[str]:
        """The kinds of all notices of a user, oldest first."""
        async with self.database.read() as connection:
            return [kind for kind, _ in await list_notifications(connection, user_id)]

    async def mailed_token(self, user_id: UUID, purpose: Purpose) -> str:
        """The token of the last mail of that purpose, as the mail will have it."""
        async with self.database.read() as connection:
            posted_rows = await list_notifications(connection, user_id)
        ids = [payload["token_id"] for kind, payload in posted_rows if kind == f"account.{purpose}"]
        return one_time(SECRET, purpose, UUID(ids[-1]))

    async def audited(self, user_id: UUID) -> list[str]:
        """What was noted of a user, oldest first."""
        async with self.database.read() as connection:
            page = await audit_log.list_entries(connection, AuditFilter(entity="user", entity_id=user_id))
        return [entry.action for entry in reversed(page.data)]


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    """Each from another address (RFC 2544 keeps 198.18/15 for tests), so that no test is slowed down by another."""
    number = next(_addresses)
    return client_at(app, f"198.18.{number // 256}.{number % 256}")


def client_at(app: ASGIApp, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.test")


@pytest.fixture(scope="package")
async def account_api(ledger: Database, valkey_url: str) -> AsyncIterator[AccountApi]:
    redis_client = RedisClient(valkey_url, timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    meter = Meter(redis_client, partitions=4, owner="account")
    app = _app(ledger, meter)
    async with client_of(app) as client:
        yield AccountApi(app, ledger, meter, redis_client, client)
    await redis_client.close()


@pytest.fixture
async def verifying_api(account_api: AccountApi) -> AsyncIterator[AccountApi]:
    """On the same stores, with `auth.require_verified` and a window for refreshes at once."""
    app = _app(
        account_api.database,
        account_api.meter,
        checkout_service=CheckoutService(requires_verified=True),
        lifetimes=replace(LIFETIMES, refresh_reuse=timedelta(seconds=10)),
    )
    async with client_of(app) as client:
        yield replace(account_api, app=app, client=client)


def _app(
    database: Database,
    meter: Meter,
    *,
    checkout_service: CheckoutService | None = None,
    lifetimes: Lifetimes = LIFETIMES,
) -> ASGIApp:
    dependencies = account_dependencies(
        database=database,
        publish=OutboxPublisher(database, meter).publish_all,
        jwt_secret=SECRET,
        lifetimes=lifetimes,
        key_prefix="gw",
        peppers=PEPPERS,
        entropy=token_bytes,
        meter=meter,
        routes=ROUTES,
        past_due_grace=timedelta(days=3),
        credit_value=CreditValue("USD", Decimal(1000)),
    )
    return build_account(dependencies, checkout_service=checkout_service)
