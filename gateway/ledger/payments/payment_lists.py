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

from gateway.ledger.db.rows import Page, columns, ordered, page_by_offset, page_by_time
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
    query = query.order_by(ordered(_PAYMENTS[sort.removeprefix("-")], sort), _PAYMENTS.id)
    return await page_by_offset(connection, query, Payment, cursor=cursor, limit=limit)


async def sum_payments(
    connection: AsyncConnection,
    wanted: PaymentFilter,
    by: Sequence[PaymentDimension],
    *,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[PaymentSum]:
    """In ascending order of `by`, or first by one of SUMS, descending with a leading `-`.

    Without a type only what customers paid. Raises InvalidCursor.
    """
    keys = [_KEYS[dimension] for dimension in by]
    query = _matching(select(*keys, _PAYMENTS.currency, *_SUMS.values()), wanted)
    if wanted.transaction_type is None and PaymentDimension.TYPE not in by:
        query = query.where(_PAYMENTS.transaction_type.in_(CHARGES))
    first = () if sort is None else (ordered(_SUMS[sort.removeprefix("-")], sort),)
    query = query.group_by(*keys, _PAYMENTS.currency).order_by(*first, *keys, _PAYMENTS.currency)
    return await page_by_offset(connection, query, _sum, cursor=cursor, limit=limit)


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
_SUMS = {
    "payments": func.count().label("payments"),
    **{name: func.sum(_PAYMENTS[name]).label(name) for name in ("amount", "refunded_amount", "credits_awarded")},
}
SUMS = tuple(_SUMS)


def _matching(query: Select[Any], wanted: PaymentFilter) -> Select[Any]:
    for name in ("user_id", "transaction_type", "status", "provider", "plan_id", "currency"):
        if (expected := getattr(wanted, name)) is not None:
            query = query.where(_PAYMENTS[name] == expected)
    if wanted.since is not None:
        query = query.where(wanted.since <= _PAID_AT)
    if wanted.until is not None:
        query = query.where(wanted.until > _PAID_AT)
    return query


def _sum(*, credits_awarded: Decimal, **row: Any) -> PaymentSum:
    """PostgreSQL gives sums of integers as numerics."""
    return PaymentSum(**{**dict.fromkeys(_NAMES), **row}, credits_awarded=int(credits_awarded))
