"""Payments that an operator records, such as bank transfers: matched to invoices issued here, and refunded.

What of a payment pays no invoice stays on it, to be matched later. A refund takes that first, then what invoices were
overpaid by credit notes; an invoice whose money went back is open again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import InUse, NotFound, checked
from gateway.ledger.db.tables import invoices as invoice_rows
from gateway.ledger.db.tables import payment_allocations, payment_transactions, users
from gateway.ledger.invoicing import invoices
from gateway.ledger.invoicing.invoices import Invoice
from gateway.ledger.payments import payments
from gateway.ledger.payments.payments import Payment
from gateway.ledger.subscriptions.subscriptions import MANUAL
from policies.billing.allocations import Allocation, Claim, oldest_first, taken_back
from policies.billing.money import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Money that came. `reference` is the bank's, under which it is recorded once."""

    amount: Decimal
    currency: str
    at: datetime
    method: str = "bank_transfer"
    reference: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class WantedAllocation:
    """An invoice to pay; `amount` None: all that is due and left."""

    invoice_id: UUID
    amount: Decimal | None = None


async def record(
    connection: AsyncConnection, user_id: UUID, received: Received, *, wanted: Sequence[WantedAllocation] | None
) -> Payment:
    """Records a payment and matches it: to the `wanted` invoices, or (None) to the open ones, the oldest first.

    Raises NotFound for an unknown user or invoice, AlreadyExists for a reference that is recorded, InUse for an invoice
    that cannot take the money, and ValueError for more than the payment has.
    """
    if await connection.scalar(select(users.c.id).where(users.c.id == user_id)) is None:
        raise NotFound("user", user_id)
    # Reports book money for the plan that it is inserted with.
    paid = await _first_paid(connection, user_id, received, wanted)
    values = {
        "user_id": user_id,
        "subscription_id": paid and paid.subscription_id,
        "plan_id": paid and paid.plan_id,
        "provider": MANUAL,
        "provider_payment_id": received.reference,
        "transaction_type": "subscription",
        "status": "completed",
        "amount": received.amount,
        "currency": received.currency,
        "payment_method": received.method,
        "description": received.description,
        "processed_at": received.at,
    }
    async with checked(connection, "payment"):
        made = insert(payment_transactions).values(values).returning(payment_transactions.c.id)
        payment_id: UUID = (await connection.execute(made)).scalar_one()
    recorded = await match(connection, payment_id, wanted=wanted)
    await payments.announce(connection, None, recorded)
    return recorded


async def match(connection: AsyncConnection, payment_id: UUID, *, wanted: Sequence[WantedAllocation] | None) -> Payment:
    """Matches what of a payment pays no invoice yet. Raises as `record`."""
    payment = await lock(connection, payment_id)
    left = await get_unmatched(connection, payment)
    if wanted is None:
        claims = await _open_claims(connection, payment.user_id, currency=payment.currency)
        found = oldest_first(left, claims)
    else:
        found = await _named(connection, payment, wanted, left=left)
    for each in found:
        await _allocate(connection, payment, each)
    if payment.invoice_id is None and found:
        invoice = await invoices.get_for_update(connection, found[0].invoice_id)
        of_first: dict[str, Any] = {"invoice_id": invoice.id, "subscription_id": invoice.subscription_id}
        return await payments.update(connection, payment.id, **of_first)
    return payment


async def settle(connection: AsyncConnection, invoice_id: UUID, *, at: datetime) -> Invoice:
    """Records a payment of all that is left of an open or uncollectible invoice; gives it, paid.

    Raises NotFound, InUse.
    """
    found = await invoices.get_for_update(connection, invoice_id)
    due = found.total - found.amount_credited - found.amount_paid
    if found.provider != MANUAL or found.status not in ("open", "uncollectible") or due <= 0:
        return await invoices.close(connection, invoice_id, status="paid", now=at)
    received = Received(amount=due, currency=found.currency, at=at, method="other")
    await record(connection, found.user_id, received, wanted=[WantedAllocation(invoice_id)])
    return await invoices.get_for_update(connection, invoice_id)


async def refund(
    connection: AsyncConnection, payment_id: UUID, *, amount: Decimal, at: datetime, reason: str | None = None
) -> Payment:
    """Records that money went back. Raises NotFound, InUse, and ValueError for more than the payment has."""
    payment = await lock(connection, payment_id)
    allocations = await list_allocations(connection, payment.id)
    await _lock_invoices(connection, [each.invoice_id for each in allocations])
    overpaid = [await _claim(connection, each.invoice_id) for each in allocations]
    unmatched = await get_unmatched(connection, payment)
    for each in taken_back(amount, allocations, unmatched=unmatched, overpaid=overpaid):
        await invoices.add_payment(connection, each.invoice_id, amount=-each.amount, at=at)
        await _reduce(connection, payment.id, each)
    back = {
        "user_id": payment.user_id,
        "subscription_id": payment.subscription_id,
        "plan_id": payment.plan_id,
        "provider": MANUAL,
        "transaction_type": "refund",
        "status": "completed",
        "amount": amount,
        "currency": payment.currency,
        "refers_to_id": payment.id,
        "description": reason,
        "processed_at": at,
    }
    made = insert(payment_transactions).values(back).returning(payment_transactions.c.id)
    went_back = await payments.get(connection, (await connection.execute(made)).scalar_one())
    if went_back is not None:
        await payments.announce(connection, None, went_back)
    refunded = payment.refunded_amount + amount
    status = "refunded" if refunded == payment.amount else "partially_refunded"
    return await payments.update(connection, payment.id, refunded_amount=refunded, status=status)


async def list_allocations(connection: AsyncConnection, payment_id: UUID) -> list[Allocation]:
    """Which invoices the payment pays, in the order of their matching."""
    of_payment = payment_allocations.c.payment_id == payment_id
    query = select(payment_allocations.c.invoice_id, payment_allocations.c.amount).where(of_payment)
    rows = await connection.execute(query.order_by(payment_allocations.c.created_at, payment_allocations.c.invoice_id))
    return [Allocation(row.invoice_id, row.amount) for row in rows]


async def get_unmatched(connection: AsyncConnection, payment: Payment) -> Decimal:
    """What of a recorded payment pays no invoice and did not go back."""
    of_payment = payment_allocations.c.payment_id == payment.id
    matched = await connection.scalar(
        select(func.coalesce(func.sum(payment_allocations.c.amount), 0)).where(of_payment)
    )
    return payment.amount - payment.refunded_amount - Decimal(matched or 0)


async def lock(connection: AsyncConnection, payment_id: UUID) -> Payment:
    """The payment, locked. Raises NotFound, and InUse for one that a provider took."""
    row = select(payment_transactions.c.id).where(payment_transactions.c.id == payment_id).with_for_update()
    if await connection.scalar(row) is None:
        raise NotFound("payment", payment_id)
    payment = await payments.get(connection, payment_id)
    if payment is None or payment.provider != MANUAL or payment.transaction_type == "refund":
        raise InUse("only a payment that was recorded here can be matched")
    return payment


async def _first_paid(
    connection: AsyncConnection, user_id: UUID, received: Received, wanted: Sequence[WantedAllocation] | None
) -> Invoice | None:
    """The first invoice that money from this user is to pay; None where it pays none."""
    if wanted is None:
        ids = [claim.invoice_id for claim in await _open_claims(connection, user_id, currency=received.currency)]
    else:
        ids = [each.invoice_id for each in wanted]
        await _lock_invoices(connection, ids)
    for invoice_id in ids:
        if (await _claim(connection, invoice_id)).due > 0:
            return await invoices.get(connection, invoice_id)
    return None


async def _open_claims(connection: AsyncConnection, user_id: UUID, *, currency: str) -> list[Claim]:
    """The user's open invoices in the currency, locked, the oldest first."""
    is_its = (invoice_rows.c.user_id == user_id) & (invoice_rows.c.currency == currency)
    is_open = (invoice_rows.c.provider == MANUAL) & (invoice_rows.c.status == "open")
    query = select(invoice_rows.c.id).where(is_its, is_open).order_by(invoice_rows.c.number).with_for_update()
    return [await _claim(connection, invoice_id) for invoice_id in (await connection.scalars(query)).all()]


async def _lock_invoices(connection: AsyncConnection, invoice_ids: Sequence[UUID]) -> None:
    """In one order, as `_open_claims` does, whatever order they are paid in."""
    query = select(invoice_rows.c.id).where(invoice_rows.c.id.in_(invoice_ids))
    await connection.execute(query.order_by(invoice_rows.c.number, invoice_rows.c.id).with_for_update())


async def _claim(connection: AsyncConnection, invoice_id: UUID) -> Claim:
    found = await invoices.get_for_update(connection, invoice_id)
    return Claim(invoice_id, found.total - found.amount_credited - found.amount_paid)


async def _named(
    connection: AsyncConnection, payment: Payment, wanted: Sequence[WantedAllocation], *, left: Decimal
) -> tuple[Allocation, ...]:
    found = []
    await _lock_invoices(connection, [each.invoice_id for each in wanted])
    for each in wanted:
        invoice = await invoices.get_for_update(connection, each.invoice_id)
        if (invoice.user_id, invoice.currency) != (payment.user_id, payment.currency):
            raise InUse(f"invoice {each.invoice_id} is not of this user in {payment.currency}")
        due = invoice.total - invoice.amount_credited - invoice.amount_paid
        amount = min(due, left) if each.amount is None else each.amount
        if amount > left:
            raise ValueError(f"only {plain(left)} {payment.currency} of this payment pay no invoice yet")
        if amount > 0:
            found.append(Allocation(each.invoice_id, amount))
            left -= amount
    return tuple(found)


async def _allocate(connection: AsyncConnection, payment: Payment, part: Allocation) -> None:
    await invoices.add_payment(
        connection, part.invoice_id, amount=part.amount, at=payment.processed_at or payment.created_at
    )
    values = {"payment_id": payment.id, "invoice_id": part.invoice_id, "amount": part.amount}
    added = upsert(payment_allocations).values(values)
    more = {"amount": payment_allocations.c.amount + added.excluded.amount}
    await connection.execute(added.on_conflict_do_update(index_elements=["payment_id", "invoice_id"], set_=more))


async def _reduce(connection: AsyncConnection, payment_id: UUID, part: Allocation) -> None:
    row = payment_allocations.c
    is_it = (row.payment_id == payment_id) & (row.invoice_id == part.invoice_id)
    await connection.execute(delete(payment_allocations).where(is_it, row.amount == part.amount))
    less = {"amount": row.amount - part.amount}
    await connection.execute(update(payment_allocations).where(is_it, row.amount > part.amount).values(less))
