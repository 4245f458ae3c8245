"""Money of the demo month: periods that renew, their invoices and payments, packs, a failed payment, its webhook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import webhook_events as events_table
from gateway.ledger.invoicing import closing
from gateway.ledger.invoicing.invoices import Invoice
from gateway.ledger.payments import checkouts, manual_payments, payment_booking, webhook_events
from gateway.ledger.payments.manual_payments import Received
from gateway.ledger.payments.payment_booking import PaymentPurpose
from gateway.ledger.payments.webhook_events import WebhookEvent
from gateway.ledger.subscriptions import billing_spans, renewals
from policies.billing.issuing import Issuer
from policies.billing.payments import MAX_ATTEMPTS, PaymentStatus, RemotePayment, RemoteRefund

PROVIDER = "stripe"
GRACE = timedelta(days=3)
_BATCH = 100
_PACK_CREDITS, _PACK_PRICE, _CURRENCY = 500, Decimal("12.00"), "USD"


@dataclass(frozen=True, slots=True)
class PackPayment:
    """A payment for a pack of credits, so many days before the end of the month."""

    days_ago: int
    email: str
    error: str | None = None
    is_refunded: bool = False


PACKS: Sequence[PackPayment] = (
    PackPayment(24, "daniel@parcelhub.example"),
    PackPayment(17, "luca@conti-robotics.example"),
    PackPayment(13, "noah@fjord-media.example", is_refunded=True),
    PackPayment(9, "emma@papierwerk.example"),
    PackPayment(3, "luca@conti-robotics.example", error="Your card was declined."),
    PackPayment(2, "luca@conti-robotics.example", error="Your card has insufficient funds."),
    PackPayment(1, "owen@hughes-surveying.example"),
)
# Whose invoices are not paid yet.
_SLOW_PAYERS = frozenset({"ruth@ledgerline.example", "sofia@atelier-marques.example"})


_LOST = "No such invoice: in_demo_lost"


async def renew_due(connection: AsyncConnection, now: datetime) -> None:
    """Starts the periods that are due by `now`."""
    for due in await renewals.find_due(connection, now=now, grace=GRACE, limit=_BATCH):
        await renewals.advance(connection, due.subscription_id, now=now, grace=GRACE)


async def issue_invoices(connection: AsyncConnection, issuer: Issuer, now: datetime) -> list[Invoice]:
    """The invoices of the periods that have ended by `now`."""
    issued = []
    for span, _ in await billing_spans.find_open(connection, until=now, limit=_BATCH):
        made = await closing.close_period(
            connection, span.subscription_id, start=span.period_start, issuer=issuer, now=now
        )
        if made is not None:
            issued.append(made)
    return issued


async def pay(connection: AsyncConnection, invoice: Invoice, *, email: str, at: datetime) -> None:
    """Records a bank transfer of what is due, unless the customer takes their time."""
    if email in _SLOW_PAYERS or invoice.amount_due <= 0:
        return
    reference = f"transfer-{invoice.full_number}"
    received = Received(amount=invoice.amount_due, currency=invoice.currency, at=at, reference=reference)
    await manual_payments.record(connection, invoice.user_id, received, wanted=None)


async def book_pack(connection: AsyncConnection, user_id: UUID, payment: PackPayment, *, at: datetime) -> None:
    """Books a pack as the provider's webhook does."""
    number = f"{payment.days_ago:02}"
    checkout = await checkouts.create(
        connection,
        user_id,
        provider=PROVIDER,
        provider_checkout_id=f"cs_demo_{number}",
        status="open",
        pack_id=f"pack-{_PACK_CREDITS}",
        credits=_PACK_CREDITS,
        price_id="price_demo",
        price=_PACK_PRICE,
        currency=_CURRENCY,
    )
    remote = RemotePayment(
        id=f"pi_demo_{number}",
        customer_id=f"cus_demo_{number}",
        subscription_id=None,
        status=PaymentStatus.COMPLETED if payment.error is None else PaymentStatus.FAILED,
        amount=_PACK_PRICE,
        subtotal=_PACK_PRICE,
        currency=_CURRENCY,
        refunds=(RemoteRefund(f"re_demo_{number}", _PACK_PRICE, at),) if payment.is_refunded else (),
        method="card",
        error=payment.error,
        occurred_at=at,
    )
    purpose = PaymentPurpose(user_id, checkout=checkout)
    await payment_booking.book(connection, PROVIDER, remote, purpose=purpose, now=at)
    kind = "succeeded" if payment.error is None else "payment_failed"
    await _record_event(connection, f"evt_demo_{number}", f"payment_intent.{kind}", object_id=remote.id, at=at)


async def record_failed_event(connection: AsyncConnection, at: datetime) -> None:
    """A webhook that no attempt could process, for the operator to replay."""
    event = await _attempt(
        connection, "evt_demo_lost", "invoice.paid", object_id="in_demo_lost", at=at, attempts=MAX_ATTEMPTS
    )
    if event is not None:
        await webhook_events.fail(connection, event, reason=_LOST)


async def _record_event(
    connection: AsyncConnection, event_id: str, event_type: str, *, object_id: str, at: datetime
) -> None:
    event = await _attempt(connection, event_id, event_type, object_id=object_id, at=at, attempts=1)
    if event is not None:
        await webhook_events.complete(connection, event.id)


async def _attempt(
    connection: AsyncConnection, event_id: str, event_type: str, *, object_id: str, at: datetime, attempts: int
) -> WebhookEvent | None:
    """The event as the last of so many attempts finds it; None where it was stored before."""
    stored = await webhook_events.record(
        connection,
        PROVIDER,
        provider_event_id=event_id,
        event_type=event_type,
        payload={"id": event_id, "type": event_type, "data": {"object": {"id": object_id}}},
        occurred_at=at,
    )
    if stored is None:
        return None
    await connection.execute(update(events_table).where(events_table.c.id == stored).values(attempts=attempts))
    return await webhook_events.get(connection, stored)
