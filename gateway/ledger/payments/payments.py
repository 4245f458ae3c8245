"""Payment transactions: a row for each charge, refund and dispute, in the provider's present state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.errors import checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import payment_transactions
from policies.billing.money import plain
from policies.billing.news import MAILED, REFUNDED, payment_news


@dataclass(frozen=True, slots=True)
class Payment:
    """`refers_to_id` is the payment of a refund or dispute; `grant_id` the grant of the credits that were bought."""

    id: UUID
    user_id: UUID
    subscription_id: UUID | None
    plan_id: str | None
    invoice_id: UUID | None
    provider: str
    provider_payment_id: str | None
    transaction_type: str
    status: str
    amount: Decimal
    refunded_amount: Decimal
    currency: str
    payment_method: str | None
    credits_awarded: int
    credits_withdrawn: int
    grant_id: UUID | None
    refers_to_id: UUID | None
    description: str | None
    error_message: str | None
    processed_at: datetime | None
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


_COLUMNS = columns(payment_transactions, Payment)
# Payments of before that are fetched with something else are no news.
_LATE = timedelta(days=7)


async def upsert(connection: AsyncConnection, provider: str, *, provider_payment_id: str, **values: Any) -> Payment:
    """Creates or updates the row of this payment; `values` are fields of Payment. Raises InvalidValue.

    The user and the type of an existing row do not change. Enqueues what is worth telling with the change.
    """
    before = await find(connection, provider, provider_payment_id=provider_payment_id)
    fixed = {"user_id", "created_at", "transaction_type"}
    row = insert(payment_transactions).values(provider=provider, provider_payment_id=provider_payment_id, **values)
    changed = {name: field for name, field in values.items() if name not in fixed}
    async with checked(connection, "payment"):
        upserted = row.on_conflict_do_update(
            index_elements=["provider", "provider_payment_id"], set_={**changed, "updated_at": func.now()}
        ).returning(*_COLUMNS)
        after = value(Payment, (await connection.execute(upserted)).one())
    await announce(connection, before, after)
    return after


async def announce(connection: AsyncConnection, before: Payment | None, after: Payment) -> None:
    """Tells the owner and the operator's system what became of the payment; nothing of one that is heard of late."""
    kind = payment_news(after.transaction_type, before=None if before is None else before.status, after=after.status)
    amount = after.amount
    if before is not None and (added := _added_refund(before, after)) > 0:
        kind, amount = REFUNDED, added
    heard_after = after.updated_at - (after.processed_at or after.updated_at)
    if kind is None or after.amount <= 0 or (before is None and heard_after > _LATE):
        return
    payload = {
        "payment_id": str(after.id),
        "amount": plain(amount),
        "currency": after.currency,
        "description": after.description,
        "plan_id": after.plan_id,
        "subscription_id": after.subscription_id and str(after.subscription_id),
        "refers_to_id": after.refers_to_id and str(after.refers_to_id),
        "error": after.error_message,
    }
    channels = (notifications.MAIL, notifications.WEBHOOK) if kind in MAILED else (notifications.WEBHOOK,)
    await notifications.enqueue(connection, after.user_id, kind=kind, payload=payload, channels=channels)


def _added_refund(before: Payment, after: Payment) -> Decimal:
    """What went back besides, where one row is the sum of all refunds, as of Lemon Squeezy, which lists none."""
    is_sum = after.transaction_type == "refund" and before.status == after.status == "completed"
    return after.amount - before.amount if is_sum else Decimal(0)


async def update(connection: AsyncConnection, payment_id: UUID, **changes: Any) -> Payment:
    changed = (
        update_rows(payment_transactions)
        .where(payment_transactions.c.id == payment_id)
        .values(**changes, updated_at=func.now())
        .returning(*_COLUMNS)
    )
    return value(Payment, (await connection.execute(changed)).one())


async def fail_refunds(connection: AsyncConnection, payment_id: UUID, *, exclude: Sequence[str]) -> None:
    """Marks the payment's refunds as failed, except those with the given ids of the provider."""
    is_refund = (payment_transactions.c.refers_to_id == payment_id, payment_transactions.c.transaction_type == "refund")
    is_not_excluded = payment_transactions.c.provider_payment_id.not_in(exclude)
    changed = update_rows(payment_transactions).where(
        *is_refund, is_not_excluded, payment_transactions.c.status != "failed"
    )
    await connection.execute(changed.values(status="failed", updated_at=func.now()))


async def get(connection: AsyncConnection, payment_id: UUID) -> Payment | None:
    row = (await connection.execute(select(*_COLUMNS).where(payment_transactions.c.id == payment_id))).one_or_none()
    return None if row is None else value(Payment, row)


async def find(connection: AsyncConnection, provider: str, *, provider_payment_id: str) -> Payment | None:
    query = select(*_COLUMNS).where(
        payment_transactions.c.provider == provider,
        payment_transactions.c.provider_payment_id == provider_payment_id,
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(Payment, row)


async def list_payments(
    connection: AsyncConnection,
    *,
    user_id: UUID | None = None,
    transaction_type: str | None = None,
    status: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Payment]:
    """Newest first; None matches all."""
    query = select(*_COLUMNS)
    filters = {"user_id": user_id, "transaction_type": transaction_type, "status": status}
    for name, expected in filters.items():
        if expected is not None:
            query = query.where(payment_transactions.c[name] == expected)
    return await page_by_time(connection, query, Payment, cursor=cursor, limit=limit)
