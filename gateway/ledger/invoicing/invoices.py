"""Invoices: issued here, numbered without gaps and final; or the provider's, stored as the provider has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import InUse, NotFound, checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import invoices, usage_tracking
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription
from policies.billing.invoicing import Line, Period, credit_note, totals
from policies.billing.money import plain
from policies.billing.payments import RemotePayment


@dataclass(frozen=True, slots=True)
class Invoice:
    """`number` is for invoices issued here, `provider_number` for a provider's. A credit note has `corrects_id`."""

    id: UUID
    number: int | None
    user_id: UUID
    subscription_id: UUID | None
    status: str
    currency: str
    subtotal: Decimal
    tax: Decimal
    total: Decimal
    tax_rate: Decimal
    lines: Sequence[Mapping[str, Any]]
    period_start: datetime | None
    period_end: datetime | None
    issued_at: datetime | None
    paid_at: datetime | None
    provider: str
    provider_invoice_id: str | None
    provider_number: str | None
    url: str | None
    corrects_id: UUID | None
    metadata: Mapping[str, Any]
    created_at: datetime

    @property
    def is_own_draft(self) -> bool:
        """Whether it is a draft of an invoice to be issued here."""
        return self.status == "draft" and self.provider == MANUAL


_COLUMNS = columns(invoices, Invoice)


async def issue(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    lines: Sequence[Line],
    currency: str,
    tax_rate: Decimal,
    now: datetime,
    subscription_id: UUID | None = None,
    period: Period | None = None,
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> Invoice:
    """Issues an open invoice. Raises AlreadyExists if the period has one."""
    return await _issue(
        connection,
        lines=lines,
        tax_rate=tax_rate,
        user_id=user_id,
        subscription_id=subscription_id,
        status="open",
        currency=currency,
        issued_at=now,
        period_start=period and period.start,
        period_end=period and period.end,
        metadata=dict(metadata),
    )


async def issue_credit_note(connection: AsyncConnection, invoice: Invoice, *, now: datetime) -> Invoice:
    """Issues the credit note of an invoice: the same lines, negative, under its own number. Raises AlreadyExists."""
    lines = tuple(line_from_json(each) for each in invoice.lines)
    return await _issue(
        connection,
        lines=credit_note(lines),
        tax_rate=invoice.tax_rate,
        user_id=invoice.user_id,
        subscription_id=invoice.subscription_id,
        status="paid",
        currency=invoice.currency,
        issued_at=now,
        paid_at=now,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        corrects_id=invoice.id,
    )


async def close(connection: AsyncConnection, invoice_id: UUID, *, status: str, now: datetime) -> Invoice:
    """Marks an open invoice paid, void or uncollectible. Raises NotFound, and InUse if it is not open."""
    changed = (
        update(invoices)
        .where(invoices.c.id == invoice_id, invoices.c.status == "open", invoices.c.provider == MANUAL)
        .values(status=status, paid_at=now if status == "paid" else None)
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(changed)).one_or_none()
    if row is not None:
        return value(Invoice, row)
    found = await get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    raise InUse(f"this invoice is {found.status}; only an open one of this gateway can become {status}")


async def upsert_from_provider(
    connection: AsyncConnection,
    provider: str,
    payment: RemotePayment,
    *,
    user_id: UUID,
    of: StoredSubscription | None,
) -> UUID | None:
    """Stores the provider's invoice as it is now. Once issued, only its status, payment time and URL change."""
    remote = payment.invoice
    if remote is None:
        return None
    outcome = {"status": remote.status, "paid_at": remote.paid_at, "url": remote.url}
    values = {
        "user_id": user_id,
        "subscription_id": of and of.id,
        "provider": provider,
        "provider_invoice_id": remote.id,
        "provider_number": remote.number,
        "currency": payment.currency,
        "subtotal": remote.subtotal,
        "tax": remote.tax,
        "total": remote.subtotal + remote.tax,
        "lines": [line_to_json(line) for line in remote.lines],
        "period_start": payment.period and payment.period.start,
        "period_end": payment.period and payment.period.end,
        "issued_at": remote.issued_at,
    }
    is_same = ["provider", "provider_invoice_id"]
    status_before = await connection.scalar(
        select(invoices.c.status).where(invoices.c.provider == provider, invoices.c.provider_invoice_id == remote.id)
    )
    changes = outcome if status_before not in (None, "draft") else {**values, **outcome}
    statement = upsert(invoices).values(**values, **outcome).on_conflict_do_update(index_elements=is_same, set_=changes)
    invoice_id: UUID = (await connection.execute(statement.returning(invoices.c.id))).scalar_one()
    return invoice_id


async def get(connection: AsyncConnection, invoice_id: UUID) -> Invoice | None:
    row = (await connection.execute(select(*_COLUMNS).where(invoices.c.id == invoice_id))).one_or_none()
    return None if row is None else value(Invoice, row)


async def list_invoices(
    connection: AsyncConnection,
    *,
    user_id: UUID | None = None,
    status: str | None = None,
    with_own_drafts: bool = True,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Invoice]:
    """Newest first. `with_own_drafts` False leaves out drafts of invoices to be issued here."""
    query = select(*_COLUMNS)
    if not with_own_drafts:
        query = query.where((invoices.c.status != "draft") | (invoices.c.provider != MANUAL))
    if user_id is not None:
        query = query.where(invoices.c.user_id == user_id)
    if status is not None:
        query = query.where(invoices.c.status == status)
    return await page_by_time(connection, query, Invoice, cursor=cursor, limit=limit)


async def credits_used(connection: AsyncConnection, subscription_id: UUID, *, period: Period) -> int:
    """Credits charged in the period, the units of usage pricing."""
    used = select(func.coalesce(func.sum(usage_tracking.c.credits_charged), 0)).where(
        usage_tracking.c.subscription_id == subscription_id,
        usage_tracking.c.created_at >= period.start,
        usage_tracking.c.created_at < period.end,
    )
    return int((await connection.execute(used)).scalar_one())


def line_to_json(line: Line) -> dict[str, Any]:
    """Amounts are strings, so that JSON keeps them exact."""
    return {
        "description": line.description,
        "quantity": line.quantity,
        "unit_price": None if line.unit_price is None else plain(line.unit_price),
        "amount": plain(line.amount),
    }


def line_from_json(stored: Mapping[str, Any]) -> Line:
    """The inverse of `line_to_json`."""
    price = stored["unit_price"]
    unit_price = None if price is None else Decimal(price)
    return Line(stored["description"], stored["quantity"], unit_price, Decimal(stored["amount"]))


_NEXT_NUMBER = text("UPDATE invoice_numbers SET last_number = last_number + 1 RETURNING last_number")


async def _issue(
    connection: AsyncConnection, *, lines: Sequence[Line], tax_rate: Decimal, currency: str, **values: Any
) -> Invoice:
    """Takes the number last: the lock of the number lasts until the commit."""
    found = totals(lines, tax_rate=tax_rate, currency=currency)
    async with checked(connection, "invoice"):
        number = (await connection.execute(_NEXT_NUMBER)).scalar_one()
        statement = insert(invoices).values(
            number=number,
            currency=currency,
            subtotal=found.subtotal,
            tax=found.tax,
            total=found.total,
            tax_rate=tax_rate,
            lines=[line_to_json(line) for line in lines],
            **values,
        )
        return value(Invoice, (await connection.execute(statement.returning(*_COLUMNS))).one())
