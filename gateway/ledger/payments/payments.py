"""Money that moved, or tried to: a row for each charge, refund and dispute, as the provider has it now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import payment_transactions


@dataclass(frozen=True, slots=True)
class Payment:
    """`refers_to_id` is the payment that a refund or dispute is of; `grant_id` the credits that were bought."""

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


async def keep(connection: AsyncConnection, provider: str, *, provider_payment_id: str, **told: Any) -> Payment:
    """The one row of this payment, as told now; `told` are fields of Payment. Raises InvalidValue.

    Whose it is, and what it was for, stays as it was first told.
    """
    fixed = {"user_id", "created_at", "transaction_type"}
    row = insert(payment_transactions).values(provider=provider, provider_payment_id=provider_payment_id, **told)
    changed = {name: field for name, field in told.items() if name not in fixed}
    async with checked(connection, "payment"):
        kept = row.on_conflict_do_update(
            index_elements=["provider", "provider_payment_id"], set_={**changed, "updated_at": func.now()}
        ).returning(*_COLUMNS)
        return value(Payment, (await connection.execute(kept)).one())


async def patch(connection: AsyncConnection, payment_id: UUID, **changes: Any) -> Payment:
    changed = (
        update(payment_transactions)
        .where(payment_transactions.c.id == payment_id)
        .values(**changes, updated_at=func.now())
        .returning(*_COLUMNS)
    )
    return value(Payment, (await connection.execute(changed)).one())


async def fail_refunds(connection: AsyncConnection, payment_id: UUID, *, exclude: Sequence[str]) -> None:
    """The refunds of the payment that its provider counts no more; `exclude` are those it does, by its ids."""
    of_it = (payment_transactions.c.refers_to_id == payment_id, payment_transactions.c.transaction_type == "refund")
    has_failed = payment_transactions.c.provider_payment_id.not_in(exclude)
    changed = update(payment_transactions).where(*of_it, has_failed, payment_transactions.c.status != "failed")
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
    wanted = {"user_id": user_id, "transaction_type": transaction_type, "status": status}
    for name, wish in wanted.items():
        if wish is not None:
            query = query.where(payment_transactions.c[name] == wish)
    return await page_by_time(connection, query, Payment, cursor=cursor, limit=limit)
