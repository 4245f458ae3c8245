"""Payments by filter: listed in any order, and summed by day, month, provider, plan, status, type or user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Date, Select, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, columns, decode_cursor, encode_cursor, page_by_time, value
from gateway.ledger.db.tables import payment_transactions
from gateway.ledger.payments.payments import Payment

# What customers pay; refunds and disputes of it are rows of their own.
CHARGES = ("subscription", "credits")
SORTABLE = ("created_at", "processed_at", "amount", "refunded_amount")


class PaymentDimension(StrEnum):
    DAY = "day"
    MONTH = "month"
    PROVIDER = "provider"
    PLAN = "plan"
    STATUS = "status"
    TYPE = "type"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFilter:
    """None matches all. A payment is of the time at which the money came, or else was asked for."""

    user_id: UUID | None = None
    transaction_type: str | None = None
    status: str | None = None
    provider: str | None = None
    plan_id: str | None = None
    currency: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class PaymentSum:
    """The payments of one group in one currency; None for what they are not grouped by. Days are those of UTC."""

    day: date | None
    month: date | None
    provider: str | None
    plan_id: str | None
    status: str | None
    transaction_type: str | None
    user_id: UUID | None
    currency: str
    payments: int
    amount: Decimal
    refunded_amount: Decimal
    credits_awarded: int


async def list_payments(
    connection: AsyncConnection,
    wanted: PaymentFilter,
    *,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Payment]:
    """Newest first; or by a column of SORTABLE, descending with a leading `-`. Raises InvalidCursor."""
    query = _matching(select(*columns(payment_transactions, Payment)), wanted)
    if sort is None:
        return await page_by_time(connection, query, Payment, cursor=cursor, limit=limit)
    column = _PAYMENTS[sort.removeprefix("-")]
    ordered = column.desc().nulls_last() if sort.startswith("-") else column.asc().nulls_last()
    first = 0 if cursor is None else decode_cursor(cursor)
    page = query.order_by(ordered, _PAYMENTS.id).offset(first).limit(limit + 1)
    rows = (await connection.execute(page)).all()
    data = tuple(value(Payment, row) for row in rows[:limit])
    return Page(data, encode_cursor(first + limit) if len(rows) > limit else None)


async def sum_payments(
    connection: AsyncConnection,
    wanted: PaymentFilter,
    by: Sequence[PaymentDimension],
    *,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[PaymentSum]:
    """In ascending order of `by`; without a type only what customers paid. Raises InvalidCursor."""
    first = 0 if cursor is None else decode_cursor(cursor)
    keys = [_KEYS[dimension] for dimension in by]
    query = _matching(select(*keys, _PAYMENTS.currency, *_SUMS), wanted)
    if wanted.transaction_type is None and PaymentDimension.TYPE not in by:
        query = query.where(_PAYMENTS.transaction_type.in_(CHARGES))
    query = query.group_by(*keys, _PAYMENTS.currency).order_by(*keys, _PAYMENTS.currency)
    rows = (await connection.execute(query.offset(first).limit(limit + 1))).all()
    data = tuple(_sum(row._mapping) for row in rows[:limit])  # noqa: SLF001 - public by SQLAlchemy's documentation
    return Page(data, encode_cursor(first + limit) if len(rows) > limit else None)


_PAYMENTS = payment_transactions.c
_PAID_AT = func.coalesce(_PAYMENTS.processed_at, _PAYMENTS.created_at)
_DAY = cast(func.timezone("UTC", _PAID_AT), Date)
_KEYS: dict[PaymentDimension, Any] = {
    PaymentDimension.DAY: _DAY.label("day"),
    PaymentDimension.MONTH: cast(func.date_trunc("month", func.timezone("UTC", _PAID_AT)), Date).label("month"),
    PaymentDimension.PROVIDER: _PAYMENTS.provider,
    PaymentDimension.PLAN: _PAYMENTS.plan_id,
    PaymentDimension.STATUS: _PAYMENTS.status,
    PaymentDimension.TYPE: _PAYMENTS.transaction_type,
    PaymentDimension.USER: _PAYMENTS.user_id,
}
_NAMES = ("day", "month", "provider", "plan_id", "status", "transaction_type", "user_id")
_SUMS = (
    func.count().label("payments"),
    func.sum(_PAYMENTS.amount).label("amount"),
    func.sum(_PAYMENTS.refunded_amount).label("refunded_amount"),
    func.sum(_PAYMENTS.credits_awarded).label("credits_awarded"),
)


def _matching(query: Select[Any], wanted: PaymentFilter) -> Select[Any]:
    for name in ("user_id", "transaction_type", "status", "provider", "plan_id", "currency"):
        if (expected := getattr(wanted, name)) is not None:
            query = query.where(_PAYMENTS[name] == expected)
    if wanted.since is not None:
        query = query.where(wanted.since <= _PAID_AT)
    if wanted.until is not None:
        query = query.where(wanted.until > _PAID_AT)
    return query


def _sum(row: Any) -> PaymentSum:
    """PostgreSQL gives sums of integers as numerics."""
    keys: dict[str, Any] = {name: row.get(name) for name in _NAMES}
    return PaymentSum(
        **keys,
        currency=row["currency"],
        payments=row["payments"],
        amount=row["amount"],
        refunded_amount=row["refunded_amount"],
        credits_awarded=int(row["credits_awarded"]),
    )
