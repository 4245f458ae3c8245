"""Invoices by filter: listed in any order, and summed by day, month, provider, plan, status or user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Date, Select, String, case, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, columns, ordered, page_by_offset, page_by_time
from gateway.ledger.db.tables import invoices
from gateway.ledger.invoicing.invoices import Invoice

SORTABLE = ("created_at", "issued_at", "due_at", "number", "total", "amount_due")
# What was asked for; drafts are not yet, and void ones no more.
ISSUED = ("open", "paid", "uncollectible")


class InvoiceDimension(StrEnum):
    DAY = "day"
    MONTH = "month"
    PROVIDER = "provider"
    PLAN = "plan"
    STATUS = "status"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFilter:
    """None matches all. An invoice is of the time of its issue, a draft of that of its making.

    `number` is the number, or the printed one of the gateway or a provider.
    """

    user_id: UUID | None = None
    subscription_id: UUID | None = None
    plan_id: str | None = None
    status: str | None = None
    provider: str | None = None
    currency: str | None = None
    number: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class InvoiceSum:
    """The invoices of one group in one currency; None for what they are not grouped by. Days are those of UTC."""

    day: date | None
    month: date | None
    provider: str | None
    plan_id: str | None
    status: str | None
    user_id: UUID | None
    currency: str
    invoices: int
    subtotal: Decimal
    tax: Decimal
    total: Decimal
    amount_paid: Decimal
    amount_credited: Decimal
    amount_due: Decimal


async def list_invoices(
    connection: AsyncConnection,
    wanted: InvoiceFilter,
    *,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Invoice]:
    """Newest first; or by one of SORTABLE, descending with a leading `-`. Raises InvalidCursor."""
    query = _matching(select(*columns(invoices, Invoice)), wanted)
    if sort is None:
        return await page_by_time(connection, query, Invoice, cursor=cursor, limit=limit)
    key = _DUE if sort.endswith("amount_due") else _INVOICES[sort.removeprefix("-")]
    query = query.order_by(ordered(key, sort), _INVOICES.id)
    return await page_by_offset(connection, query, Invoice, cursor=cursor, limit=limit)


async def sum_invoices(
    connection: AsyncConnection,
    wanted: InvoiceFilter,
    by: Sequence[InvoiceDimension],
    *,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[InvoiceSum]:
    """In ascending order of `by`, or first by one of SUMS, descending with a leading `-`.

    Without a status only what was asked for. Raises InvalidCursor.
    """
    keys = [_KEYS[dimension] for dimension in by]
    query = _matching(select(*keys, _INVOICES.currency, *_SUMS.values()), wanted)
    if wanted.status is None and InvoiceDimension.STATUS not in by:
        query = query.where(_INVOICES.status.in_(ISSUED))
    first = () if sort is None else (ordered(_SUMS[sort.removeprefix("-")], sort),)
    query = query.group_by(*keys, _INVOICES.currency).order_by(*first, *keys, _INVOICES.currency)
    return await page_by_offset(connection, query, _sum, cursor=cursor, limit=limit)


_INVOICES = invoices.c
_AT = func.coalesce(_INVOICES.issued_at, _INVOICES.created_at)
_DUE = case((_INVOICES.status == "open", _INVOICES.total - _INVOICES.amount_credited - _INVOICES.amount_paid), else_=0)
_KEYS: dict[InvoiceDimension, Any] = {
    InvoiceDimension.DAY: cast(func.timezone("UTC", _AT), Date).label("day"),
    InvoiceDimension.MONTH: cast(func.date_trunc("month", func.timezone("UTC", _AT)), Date).label("month"),
    InvoiceDimension.PROVIDER: _INVOICES.provider,
    InvoiceDimension.PLAN: _INVOICES.plan_id,
    InvoiceDimension.STATUS: _INVOICES.status,
    InvoiceDimension.USER: _INVOICES.user_id,
}
_NAMES = ("day", "month", "provider", "plan_id", "status", "user_id")
_SUMMED = ("subtotal", "tax", "total", "amount_paid", "amount_credited")
_SUMS = {
    "invoices": func.count().label("invoices"),
    **{name: func.sum(_INVOICES[name]).label(name) for name in _SUMMED},
    "amount_due": func.sum(_DUE).label("amount_due"),
}
SUMS = tuple(_SUMS)


def _matching(query: Select[Any], wanted: InvoiceFilter) -> Select[Any]:
    for name in ("user_id", "subscription_id", "plan_id", "status", "provider", "currency"):
        if (expected := getattr(wanted, name)) is not None:
            query = query.where(_INVOICES[name] == expected)
    if wanted.number is not None:
        names = (cast(_INVOICES.number, String), _INVOICES.full_number, _INVOICES.provider_number)
        query = query.where(or_(*(name == wanted.number for name in names)))
    if wanted.since is not None:
        query = query.where(wanted.since <= _AT)
    if wanted.until is not None:
        query = query.where(wanted.until > _AT)
    return query


def _sum(**row: Any) -> InvoiceSum:
    return InvoiceSum(**{**dict.fromkeys(_NAMES), **row})
