"""A believable month of the demo: customers, keys, calls, refusals, renewals, invoices and payments.

Day after day it calls what the APIs and the workers call, so the books agree as they do in earnest. All of it is one
transaction, drawn from one seed: a start that is interrupted leaves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.demo import billing
from gateway.cli.demo.calls import Caller, draw_day, shrunk
from gateway.cli.demo.customers import CUSTOMERS, DEMO_EMAIL, Customer
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.api_keys import Fingerprint
from gateway.ledger.audit import audit_log
from gateway.ledger.credits import expiry, grants
from gateway.ledger.db import month_partitions
from gateway.ledger.db.tables import notice_deliveries, notices, user_credits
from gateway.ledger.subscriptions import lifecycle
from gateway.ledger.usage import ingestion, refusals
from gateway.ledger.usage.refusals import RefusedIn
from policies.billing.issuing import Issuer
from policies.model import Refusal, Route

SEED = 18
ACTOR = "cli:demo"
# Usage begins after the first accounts did, and fills the charts of 30 days.
_DAYS_OF_CALLS = 34
_CREDITS: Mapping[int, Sequence[tuple[str, int, str]]] = {
    21: (("maren@holt-daughters.example", 400, "apology for the outage of the 3rd"),),
    12: (("aiko@lumen-labs.example", 1500, "evaluation credits, agreed by mail"),),
    5: (("jonas@brandt-analytics.example", 100, "reported a mistake in the documentation"),),
}
_BACKDATED = (
    *("users", "api_keys", "user_credits", "credit_grants", "credit_ledger", "subscriptions", "billing_spans"),
    *("invoices", "payment_transactions", "payment_allocations", "checkouts", "webhook_events"),
)
_TIME_SETTING = "gateway.demo_time"
_SUSPENDED = "ivan.petrov@mail.example"
# What the customer who signs in sees of refusals: the day, the code, how many.
_REFUSED_DEMO: Mapping[int, tuple[Refusal, int]] = {
    13: (Refusal.BATCH_TOO_LARGE, 2),
    5: (Refusal.RATE_LIMITED, 14),
    2: (Refusal.MODEL_NOT_OFFERED, 3),
}
_CODES = (Refusal.RATE_LIMITED, Refusal.RATE_LIMITED, Refusal.FEATURE_NOT_IN_PLAN, Refusal.BATCH_TOO_LARGE)


async def seed_month(
    connection: AsyncConnection,
    *,
    routes: Mapping[str, Route],
    issuer: Issuer,
    demo_key: Fingerprint,
    password_hash: str,
    now: datetime,
    customers: Sequence[Customer] = CUSTOMERS,
) -> UUID | None:
    """Seeds the month that ends `now`; gives the id of the demo user, None if there are customers of it already."""
    for customer in customers:
        if await users.get_by_email(connection, customer.email) is not None:
            return None
    month = Month(connection, customers, routes=routes, issuer=issuer, now=now)
    first = max(customer.since for customer in customers)
    await month.begin(first)
    for days_ago in range(first, -1, -1):
        await month.add_day(days_ago, demo_key=demo_key, password_hash=password_hash)
    await month.finish()
    return month.user_id_of(DEMO_EMAIL)


class Month:
    """The accounts as they are at the end of the day that was added last."""

    def __init__(
        self,
        connection: AsyncConnection,
        customers: Sequence[Customer],
        *,
        routes: Mapping[str, Route],
        issuer: Issuer,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._customers = customers
        self._routes = routes
        self._issuer = issuer
        self._now = now
        self._today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._callers: dict[str, Caller] = {}
        self._dice = random.Random(SEED)  # noqa: S311 - a demo, not a secret

    def user_id_of(self, email: str) -> UUID:
        return self._callers[email].user_id

    async def begin(self, days: int) -> None:
        """Makes room for the calls of so many days."""
        await begin_backdating(self._connection)
        await month_partitions.create_missing(
            self._connection, now=self._now - timedelta(days=days), months_ahead=days // 28 + 2
        )

    async def add_day(self, days_ago: int, *, demo_key: Fingerprint, password_hash: str) -> None:
        day = self._today - timedelta(days=days_ago)
        noon = min(day + timedelta(hours=11), self._now)
        await set_creation_time(self._connection, noon)
        for customer in self._customers:
            if customer.since == days_ago:
                await self._add_customer(customer, noon, demo_key=demo_key, password_hash=password_hash)
        await self._bill(days_ago, noon)
        if days_ago <= _DAYS_OF_CALLS:
            await self._call(day)
            await set_creation_time(self._connection, min(day + timedelta(hours=23), self._now))
            await self._charge()

    async def finish(self) -> None:
        """Suspends an account, and leaves no mail about the past to be sent."""
        await set_creation_time(self._connection, self._now - timedelta(hours=5))
        await billing.record_failed_event(self._connection, self._now - timedelta(hours=5))
        await end_backdating(self._connection)
        suspended = await users.suspend(self._connection, self._callers[_SUSPENDED].user_id)
        await self._record("users.suspend", suspended.id, reason="shares his key in a public repository")
        await self._connection.execute(delete(notice_deliveries))
        await self._connection.execute(delete(notices))

    async def _add_customer(
        self, customer: Customer, at: datetime, *, demo_key: Fingerprint, password_hash: str
    ) -> None:
        is_demo = customer.email == DEMO_EMAIL
        user = await users.create(
            self._connection,
            customer.email,
            name=customer.name,
            company=customer.company or None,
            external_id=f"crm-{4000 + customer.since}-{len(self._callers):02}",
            email_verified_at=at,
            metadata={"note": customer.note} if customer.note else {},
            password_hash=password_hash if is_demo else None,
        )
        subscription = await lifecycle.start(self._connection, user.id, plan_id=customer.plan, now=at)
        named = {"demo": demo_key} if is_demo else {name: _fingerprint(customer, name) for name in customer.keys}
        made = [
            await api_keys.create(self._connection, user.id, fingerprint=each, name=name)
            for name, each in named.items()
        ]
        self._callers[customer.email] = Caller(customer, user.id, subscription.id, [key.id for key in made])

    async def _bill(self, days_ago: int, at: datetime) -> None:
        """Renewals, invoices, what was bought, and what an operator gave."""
        connection = self._connection
        await billing.renew_due(connection, at)
        emails = {caller.user_id: email for email, caller in self._callers.items()}
        for invoice in await billing.issue_invoices(connection, self._issuer, at):
            await billing.pay(connection, invoice, email=emails[invoice.user_id], at=at)
        for payment in billing.PACKS:
            if payment.days_ago == days_ago:
                await billing.book_pack(connection, self.user_id_of(payment.email), payment, at=at)
        for email, amount, reason in _CREDITS.get(days_ago, ()):
            user_id = self.user_id_of(email)
            await grants.grant(
                connection, user_id, amount=amount, source="admin", reason=reason, actor=ACTOR, effective_at=at
            )
            await self._record("credits.grant", user_id, reason=reason)
        for user_id in await expiry.list_due_accounts(
            connection, now=at, grace=billing.GRACE, limit=len(self._customers)
        ):
            await expiry.apply_due(connection, user_id, now=at, grace=billing.GRACE)

    async def _call(self, day: datetime) -> None:
        """Draws the day's calls, and what was refused."""
        counts: dict[RefusedIn, int] = {}
        balances = await self._connection.execute(select(user_credits.c.user_id, user_credits.c.current_credits))
        credits = {row.user_id: row.current_credits for row in balances}
        for caller in self._callers.values():
            caller.credits, caller.refused = credits[caller.user_id], 0
            draw_day(caller, self._routes, day, self._now, seed=SEED)
            minute = day + timedelta(hours=self._dice.randrange(7, 18), minutes=self._dice.randrange(60))
            if minute > self._now:
                minute = shrunk(minute, day, self._now).replace(second=0, microsecond=0)
            if caller.refused:
                counts[_refused(caller, Refusal.INSUFFICIENT_CREDITS, minute)] = caller.refused
            if self._dice.random() < 0.08:
                counts[_refused(caller, self._dice.choice(_CODES), minute)] = self._dice.randrange(1, 25)
            if caller.customer.email == DEMO_EMAIL and (known := _REFUSED_DEMO.get((self._today - day).days)):
                counts[_refused(caller, known[0], minute)] = known[1]
        await refusals.add(self._connection, counts)

    async def _charge(self) -> None:
        lines: list[bytes] = []
        used: dict[UUID, datetime] = {}
        for caller in self._callers.values():
            lines += (line.encode() for line in caller.lines)
            if caller.lines:
                used |= dict.fromkeys(caller.key_ids, _instant_of(caller.lines[-1]))
            caller.lines.clear()
        await ingestion.ingest(self._connection, lines)
        await api_keys.touch_last_used(self._connection, used)

    async def _record(self, action: str, user_id: UUID, *, reason: str) -> None:
        await audit_log.append(
            self._connection, actor=ACTOR, action=action, entity="user", entity_id=user_id, reason=reason
        )


async def begin_backdating(connection: AsyncConnection) -> None:
    """New rows get as created_at what `set_creation_time` says, until `end_backdating`.

    The ledger is append-only, so nothing can be backdated later. DDL takes no parameters, hence the setting.
    """
    await _set_defaults(connection, f"CAST(current_setting('{_TIME_SETTING}') AS timestamptz)")


async def set_creation_time(connection: AsyncConnection, instant: datetime) -> None:
    setting = {"name": _TIME_SETTING, "instant": instant.isoformat()}
    await connection.execute(text("SELECT set_config(:name, :instant, true)"), setting)


async def end_backdating(connection: AsyncConnection) -> None:
    await _set_defaults(connection, "now()")


async def _set_defaults(connection: AsyncConnection, default: str) -> None:
    for table in _BACKDATED:
        await connection.exec_driver_sql(f"ALTER TABLE {table} ALTER COLUMN created_at SET DEFAULT {default}")


def _fingerprint(customer: Customer, name: str) -> Fingerprint:
    """Of a key that nobody has: its secret was never made."""
    digest = sha256(f"{SEED}/{customer.email}/{name}".encode()).digest()
    letters = digest.hex()
    return Fingerprint(f"gw_live_{letters[:4]}", letters[-4:], digest)


def _refused(caller: Caller, code: Refusal, minute: datetime) -> RefusedIn:
    return RefusedIn(caller.key_ids[0], "chat", code, minute)


def _instant_of(line: str) -> datetime:
    return datetime.fromtimestamp(int(line.split("\t", 2)[1]) / 1_000_000, UTC)
