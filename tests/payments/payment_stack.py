"""The account API and the payment workers over real stores, with a fake payment provider behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from secrets import token_bytes
from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import text

from gateway.api.account import account_dependencies, build_account
from gateway.api.account.dependencies import Lifetimes
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.checkout import CheckoutService, Sale, create_pack_checkout
from gateway.clock import now
from gateway.config.plans import Pack
from gateway.ledger.accounts import login_sessions, users
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.credits import expiry, grants
from gateway.ledger.db.session import Database
from gateway.ledger.payments import checkouts, payments
from gateway.ledger.payments.checkouts import Checkout
from gateway.ledger.payments.payments import Payment
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import Provider
from gateway.workers.billing.webhook_processor import WebhookProcessor

SECRET = "secret-of-the-tests"
GRACE = timedelta(days=3)
LIFETIMES = Lifetimes(
    access=timedelta(minutes=15),
    refresh=timedelta(days=30),
    verify_email=timedelta(days=3),
    reset_password=timedelta(hours=1),
)
PACK = Pack(
    id="pack-100",
    name="100 credits",
    credits=100,
    price=Decimal("5.00"),
    stripe_price_id="price_pack",
    lemon_squeezy_variant_id="900",
)
PATHS = {"stripe": "/webhooks/stripe", "lemon_squeezy": "/webhooks/lemon-squeezy"}


@dataclass(frozen=True)
class BillingState:
    """A user's billing state without times and random ids."""

    status: str | None
    plan_id: str | None
    is_ending: bool | None
    period: tuple[Any, Any] | None
    balance: int
    granted: int
    payments: tuple[tuple[str, str, str, str, int, int], ...]


@dataclass
class PaymentStack:
    database: Database
    provider: Provider
    checkout_service: CheckoutService
    app: Any
    client: httpx.AsyncClient
    processor: WebhookProcessor
    plans: Mapping[str, StoredPlan] = field(default_factory=dict)

    async def create_user(self) -> User:
        async with self.database.transaction() as connection:
            return await users.create(connection, f"{uuid4().hex}@example.com")

    async def client_for(self, user: User) -> httpx.AsyncClient:
        async with self.database.transaction() as connection:
            session_id = await login_sessions.create(
                connection, user.id, token_hash=token_bytes(32), expires_at=now() + LIFETIMES.refresh, address=None
            )
        pair = AccessTokens(SECRET, lifetime=LIFETIMES.access).pair(user.id, session_id, refresh_token="x")
        client = _client(self.app)
        client.headers["authorization"] = f"Bearer {pair.access_token}"
        return client

    async def subscribe(self, user: User, plan: str = "pro") -> Checkout:
        async with await self.client_for(user) as client:
            begun = await client.post(f"/subscriptions/{plan}")
        assert begun.status_code == 201, begun.text
        assert begun.json()["status"] == "incomplete"
        async with self.database.read() as connection:
            found = await checkouts.get(connection, UUID(begun.json()["checkout_id"]))
        assert found is not None
        assert found.url == begun.json()["checkout_url"]
        return found

    async def buy_pack(self, user: User) -> Checkout:
        return await create_pack_checkout(Sale(self.checkout_service, self.database, user), PACK, now=now())

    async def deliver(self, body: bytes, headers: Mapping[str, str], *, status: int = 200) -> Any:
        answer = await self.client.post(PATHS[self.provider.name], content=body, headers=dict(headers))
        assert answer.status_code == status, answer.text
        return answer.json()

    async def process_all(self) -> int:
        """Processes all events, including those that failed and those whose worker died."""
        processed = 0
        while True:
            async with self.database.transaction() as connection:
                waiting = "UPDATE webhook_events SET next_attempt_at = now() WHERE status IN ('received', 'failed')"
                if not (await connection.execute(text(waiting))).rowcount or processed > 200:
                    return processed
            processed += await self.processor.run_once()

    async def expire(self, user: User, *, at: datetime) -> None:
        """Ends the user's credits as the worker does, whose time is `at`."""
        async with self.database.transaction() as connection:
            await expiry.apply_due(connection, user.id, now=at, grace=GRACE)

    async def subscription(self, user: User) -> StoredSubscription | None:
        async with self.database.read() as connection:
            return await subscriptions.get_latest(connection, user.id)

    async def balance(self, user: User) -> int:
        async with self.database.read() as connection:
            found = await grants.get_balance(connection, user.id)
        assert found is not None
        return found.current_credits

    async def payments(self, user: User) -> tuple[Payment, ...]:
        async with self.database.read() as connection:
            return (await payments.list_payments(connection, user_id=user.id, limit=500)).data

    async def billing_state(self, user: User) -> BillingState:
        found = await self.subscription(user)
        rows = await self.payments(user)
        async with self.database.read() as connection:
            granted = "SELECT coalesce(sum(amount), 0) FROM credit_ledger WHERE user_id = :id AND kind = 'grant'"
            total = (await connection.execute(text(granted), {"id": user.id})).scalar_one()
        return BillingState(
            status=str(found.status) if found else None,
            plan_id=found.plan_id if found else None,
            is_ending=found.cancel_at_period_end if found else None,
            period=(found.current_period_start, found.current_period_end) if found else None,
            balance=await self.balance(user),
            granted=int(total),
            payments=tuple(sorted(_comparable(row) for row in rows)),
        )

    async def event_reasons(self, status: str) -> list[str]:
        query = text("SELECT coalesce(error_message, '') FROM webhook_events WHERE status = :status ORDER BY id")
        async with self.database.read() as connection:
            return list(await connection.scalars(query, {"status": status}))


@asynccontextmanager
async def payment_stack(database: Database, provider: Provider | None) -> AsyncIterator[PaymentStack]:
    """Creates the plans `basic` (9.99, 100 credits), `pro` (29.99, 1000) and `free` if they are missing."""
    providers = {} if provider is None else {provider.name: provider}
    processor = WebhookProcessor(database, providers)
    checkout_service = CheckoutService(
        providers=providers,
        default=None if provider is None else provider.name,
        packs=(PACK,),
        success_url="https://app.test/paid",
        cancel_url="https://app.test/plans",
        process_event=None,
    )
    app = account_app(database, checkout_service)
    async with _client(app) as client:
        stack: Any = PaymentStack(database, provider, checkout_service, app, client, processor)  # type: ignore[arg-type] # None only where nothing is sold
        stack.plans = await create_plans(database)
        yield stack


def account_app(database: Database, checkout_service: CheckoutService) -> Any:
    async def publish() -> None:
        return None

    dependencies = account_dependencies(
        database=database,
        publish=publish,
        jwt_secret=SECRET,
        lifetimes=LIFETIMES,
        key_prefix="gw",
        peppers={1: b"pepper"},
        entropy=token_bytes,
        meter=None,  # type: ignore[arg-type] # nothing here is metered
        routes={},
        past_due_grace=GRACE,
    )
    return build_account(dependencies, checkout_service=checkout_service)


def processing_at_once(stack: PaymentStack) -> PaymentStack:
    """The same stack, which processes events as they arrive."""
    checkout_service = replace(stack.checkout_service, process_event=stack.processor.process)
    app = account_app(stack.database, checkout_service)
    return replace(stack, checkout_service=checkout_service, app=app, client=_client(app))


def _client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.test")


async def create_plans(database: Database) -> dict[str, StoredPlan]:
    """Gives those that are there as they are."""
    terms = {
        "basic": PlanTerms(
            name="Basic",
            price=Decimal("9.99"),
            credits_per_period=100,
            provider_ids={"stripe_price_id": "price_basic", "lemon_squeezy_variant_id": "100"},
        ),
        "pro": PlanTerms(
            name="Pro",
            price=Decimal("29.99"),
            credits_per_period=1000,
            provider_ids={"stripe_price_id": "price_pro", "lemon_squeezy_variant_id": "200"},
        ),
        "free": PlanTerms(name="Free", price=Decimal(0), credits_per_period=10),
    }
    async with database.transaction() as connection:
        return {
            name: await plans.get(connection, name) or await plans.create(connection, each, plan_id=name)
            for name, each in terms.items()
        }


def _comparable(row: Payment) -> tuple[str, str, str, str, int, int]:
    return (
        row.transaction_type,
        row.status,
        str(row.amount),
        str(row.refunded_amount),
        row.credits_awarded,
        row.credits_withdrawn,
    )


def only(rows: tuple[Payment, ...], kind: str) -> Payment:
    (found,) = (row for row in rows if row.transaction_type == kind)
    return found
