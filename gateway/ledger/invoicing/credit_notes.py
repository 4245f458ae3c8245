"""Credit notes: they take back an invoice that was issued here, in part or whole, and never more than it asked for."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import InUse
from gateway.ledger.db.tables import invoices as rows
from gateway.ledger.invoicing import invoices
from gateway.ledger.invoicing.invoices import Invoice, line_from_json
from policies.billing.invoicing import Line, LineKind, Totals, credit_note, partial_credit
from policies.billing.issuing import Issuer, to_json


async def issue(
    connection: AsyncConnection,
    invoice: Invoice,
    *,
    issuer: Issuer,
    now: datetime,
    amount: Decimal | None = None,
    reason: str | None = None,
) -> Invoice:
    """Issues the credit note of an invoice that the caller has locked: `amount` of its total; None: all that is left.

    An open or uncollectible invoice of which nothing is left to pay becomes `paid`. Raises InUse for an invoice that
    cannot be credited, and ValueError for an amount that cannot be.
    """
    left = _left(invoice)
    whole = amount is None and not invoice.amount_credited
    found = _reversed(invoice) if whole else _part(invoice, left if amount is None else amount)
    lines = (
        credit_note([line_from_json(each) for each in invoice.lines])
        if whole
        else (_line(invoice, found.subtotal, reason),)
    )
    note = await invoices.insert_issued(
        connection,
        issuer,
        lines=lines,
        amounts=found,
        now=now,
        user_id=invoice.user_id,
        subscription_id=invoice.subscription_id,
        plan_id=invoice.plan_id,
        status="paid",
        currency=invoice.currency,
        tax_rate=invoice.tax_rate,
        buyer=invoice.buyer or to_json(await invoices.get_buyer(connection, invoice.user_id)),
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        corrects_id=invoice.id,
        reason=reason,
    )
    await _reduce(connection, invoice, by=-found.total, at=now)
    return note


def _left(invoice: Invoice) -> Decimal:
    """What can still be credited. Raises InUse."""
    if invoice.number is None or invoice.corrects_id is not None or invoice.status == "void":
        raise InUse("only an invoice issued here, neither a credit note nor void, can be credited")
    if invoice.total <= 0:
        raise InUse("this invoice asks for nothing; one in the customer's favour can be made void")
    left = invoice.total - invoice.amount_credited
    if left <= 0:
        raise InUse("this invoice is credited in full")
    return left


def _reversed(invoice: Invoice) -> Totals:
    return Totals(-invoice.subtotal, -invoice.tax, -invoice.total)


def _part(invoice: Invoice, amount: Decimal) -> Totals:
    invoiced = Totals(invoice.subtotal, invoice.tax, invoice.total)
    return partial_credit(invoiced, credited=invoice.amount_credited, amount=amount, currency=invoice.currency)


def _line(invoice: Invoice, subtotal: Decimal, reason: str | None) -> Line:
    description = f"Credit for {invoice.full_number or f'invoice {invoice.number}'}"
    return Line(f"{description}: {reason}" if reason else description, 1, None, subtotal, LineKind.CREDIT)


async def _reduce(connection: AsyncConnection, invoice: Invoice, *, by: Decimal, at: datetime) -> None:
    credited = invoice.amount_credited + by
    is_settled = invoice.status in ("open", "uncollectible") and credited + invoice.amount_paid >= invoice.total
    values: dict[str, Any] = {"amount_credited": credited, "status": "paid" if is_settled else invoice.status}
    if is_settled and invoice.amount_paid:
        values["paid_at"] = at
    await connection.execute(update(rows).where(rows.c.id == invoice.id).values(values))
