"""Invoices: issued here, numbered without gaps and final; or the provider's, stored as the provider has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.errors import InUse, NotFound, checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import invoices, users
from gateway.ledger.subscriptions import billing_spans
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription
from policies.billing.invoicing import Line, LineKind, Period, Totals, totals
from policies.billing.issuing import Buyer, Issuer, to_json, zone
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
    full_number: str | None
    plan_id: str | None
    seller: Mapping[str, Any] | None
    buyer: Mapping[str, Any] | None
    due_at: datetime | None
    reason: str | None
    amount_paid: Decimal
    amount_credited: Decimal
    metadata: Mapping[str, Any]
    created_at: datetime

    @property
    def amount_due(self) -> Decimal:
        """What is still to be paid; 0 once the invoice is no longer open."""
        return self.total - self.amount_credited - self.amount_paid if self.status == "open" else Decimal(0)

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
    issuer: Issuer,
    now: datetime,
    subscription_id: UUID | None = None,
    plan_id: str | None = None,
    period: Period | None = None,
    buyer: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> Invoice:
    """Issues an invoice with seller, buyer and terms as they are now. Raises AlreadyExists if the period has one.

    One that asks for nothing is paid at once. Of a deleted account the buyer is as it was, or `buyer`.
    """
    found = totals(lines, tax_rate=issuer.tax_rate, currency=currency)
    return await insert_issued(
        connection,
        issuer,
        lines=lines,
        amounts=found,
        now=now,
        user_id=user_id,
        subscription_id=subscription_id,
        plan_id=plan_id,
        status="open" if found.total > 0 else "paid",
        currency=currency,
        tax_rate=issuer.tax_rate,
        due_at=issuer.due_at(now) if found.total > 0 else None,
        paid_at=None if found.total else now,
        buyer=buyer or await _find_buyer(connection, user_id, subscription_id),
        period_start=period and period.start,
        period_end=period and period.end,
        metadata=dict(metadata),
    )


async def get_buyer(connection: AsyncConnection, user_id: UUID) -> Buyer:
    """The account as invoices name it."""
    named = (users.c.name, users.c.company, users.c.email, users.c.billing_address, users.c.vat_id, users.c.time_zone)
    row = (await connection.execute(select(*named).where(users.c.id == user_id))).one()
    return Buyer(
        name=row.name or "",
        company=row.company or "",
        email=row.email,
        address=tuple((row.billing_address or "").splitlines()),
        vat_id=row.vat_id or "",
        time_zone=row.time_zone,
    )


async def close(connection: AsyncConnection, invoice_id: UUID, *, status: str, now: datetime) -> Invoice:
    """Marks an open invoice paid, void or uncollectible. Raises NotFound, and InUse if it is not open.

    One in the customer's favour, which is never open, can be made void.
    """
    is_closable = invoices.c.status == "open"
    values: dict[str, Any] = {"status": status}
    if status == "paid":
        values |= {"paid_at": now, "amount_paid": invoices.c.total - invoices.c.amount_credited}
    if status == "void":
        in_favour = (invoices.c.status == "paid") & (invoices.c.total < 0) & invoices.c.corrects_id.is_(None)
        is_closable = (is_closable | in_favour) & (invoices.c.amount_paid == 0)
    is_its = (invoices.c.id == invoice_id) & (invoices.c.provider == MANUAL)
    changed = update(invoices).where(is_its, is_closable).values(values).returning(*_COLUMNS)
    row = (await connection.execute(changed)).one_or_none()
    if row is not None:
        return value(Invoice, row)
    found = await get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    if found.status == "open":
        raise InUse(f"{plain(found.amount_paid)} {found.currency} of this invoice are paid; credit it instead")
    raise InUse(f"this invoice is {found.status}; only an open one of this gateway can become {status}")


async def add_payment(connection: AsyncConnection, invoice_id: UUID, *, amount: Decimal, at: datetime) -> Invoice:
    """Records money that came for an invoice issued here, or that went back where negative; it is paid once all came.

    One that was given up stays `uncollectible` until then. Raises NotFound, and InUse for an invoice that asks for no
    money, or for less or more than it has.
    """
    found = await get_for_update(connection, invoice_id)
    paid, asked = found.amount_paid + amount, found.total - found.amount_credited
    if found.provider != MANUAL or found.status not in ("open", "paid", "uncollectible") or found.total <= 0:
        raise InUse("only an issued invoice of this gateway that asks for money can be paid")
    if paid < 0 or (amount > 0 and paid > asked):
        raise InUse(
            f"{plain(found.amount_paid)} of {plain(asked)} {found.currency} are paid; {plain(amount)} does not fit"
        )
    is_settled = paid >= asked
    unsettled = "uncollectible" if found.status == "uncollectible" else "open"
    values = {
        "amount_paid": paid,
        "status": "paid" if is_settled else unsettled,
        "paid_at": (found.paid_at or at) if is_settled and paid else None,
    }
    changed = update(invoices).where(invoices.c.id == invoice_id).values(values).returning(*_COLUMNS)
    return value(Invoice, (await connection.execute(changed)).one())


async def get_for_update(connection: AsyncConnection, invoice_id: UUID) -> Invoice:
    """Raises NotFound."""
    query = select(*_COLUMNS).where(invoices.c.id == invoice_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound("invoice", invoice_id)
    return value(Invoice, row)


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
        "plan_id": of and of.plan_id,
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


async def list_for_user(
    connection: AsyncConnection, user_id: UUID, *, cursor: str | None = None, limit: int = 50
) -> Page[Invoice]:
    """Newest first, without drafts of invoices to be issued here."""
    is_visible = (invoices.c.status != "draft") | (invoices.c.provider != MANUAL)
    query = select(*_COLUMNS).where(invoices.c.user_id == user_id, is_visible)
    return await page_by_time(connection, query, Invoice, cursor=cursor, limit=limit)


def line_to_json(line: Line) -> dict[str, Any]:
    """Amounts are strings, so that JSON keeps them exact."""
    return {
        "description": line.description,
        "quantity": line.quantity,
        "unit_price": None if line.unit_price is None else plain(line.unit_price),
        "amount": plain(line.amount),
        "kind": line.kind,
        "period_start": None if line.period is None else line.period.start.isoformat(),
        "period_end": None if line.period is None else line.period.end.isoformat(),
    }


def line_from_json(stored: Mapping[str, Any]) -> Line:
    """The inverse of `line_to_json`, also for lines of releases before `kind` and the period."""
    price, start, end = stored["unit_price"], stored.get("period_start"), stored.get("period_end")
    return Line(
        stored["description"],
        stored["quantity"],
        None if price is None else Decimal(price),
        Decimal(stored["amount"]),
        LineKind(stored.get("kind", LineKind.PLAN)),
        Period(datetime.fromisoformat(start), datetime.fromisoformat(end)) if start and end else None,
    )


async def _find_buyer(connection: AsyncConnection, user_id: UUID, subscription_id: UUID | None) -> Mapping[str, Any]:
    """The account; a deleted one as its erasure kept it for the subscription, or as its last invoice names it."""
    is_deleted = await connection.scalar(select(users.c.deleted_at.is_not(None)).where(users.c.id == user_id))
    former = None
    if is_deleted and subscription_id is not None:
        of_subscription = (invoices.c.subscription_id == subscription_id) & invoices.c.buyer.is_not(None)
        last = select(invoices.c.buyer).where(of_subscription).order_by(invoices.c.number.desc()).limit(1)
        former = await billing_spans.find_kept_buyer(connection, subscription_id) or await connection.scalar(last)
    return former or to_json(await get_buyer(connection, user_id))


_NEXT_NUMBER = text("UPDATE invoice_numbers SET last_number = last_number + 1 RETURNING last_number")


async def insert_issued(
    connection: AsyncConnection, issuer: Issuer, *, lines: Sequence[Line], amounts: Totals, now: datetime, **values: Any
) -> Invoice:
    """Takes the number last: the lock of the number lasts until the commit."""
    async with checked(connection, "invoice"):
        number = (await connection.execute(_NEXT_NUMBER)).scalar_one()
        statement = insert(invoices).values(
            number=number,
            full_number=issuer.full_number(number, now),
            seller=to_json(issuer.seller),
            issued_at=now,
            subtotal=amounts.subtotal,
            tax=amounts.tax,
            total=amounts.total,
            lines=[line_to_json(line) for line in lines],
            **values,
        )
        issued = value(Invoice, (await connection.execute(statement.returning(*_COLUMNS))).one())
    await _notify(connection, issued)
    return issued


async def _notify(connection: AsyncConnection, issued: Invoice) -> None:
    """Tells the customer and the operator's system; a deleted account has no address."""
    is_deleted = select(users.c.deleted_at.is_not(None)).where(users.c.id == issued.user_id)
    webhook_only = await connection.scalar(is_deleted)
    sellers_zone = zone((issued.seller or {}).get("time_zone", "UTC"))
    payload = {
        "invoice_id": str(issued.id),
        "number": issued.full_number,
        "total": plain(issued.total),
        "currency": issued.currency,
        "due_on": None if issued.due_at is None else f"{issued.due_at.astimezone(sellers_zone):%Y-%m-%d}",
        "corrects_id": None if issued.corrects_id is None else str(issued.corrects_id),
    }
    channels = (notifications.WEBHOOK,) if webhook_only else (notifications.MAIL, notifications.WEBHOOK)
    await notifications.enqueue(connection, issued.user_id, kind="invoice.issued", payload=payload, channels=channels)
