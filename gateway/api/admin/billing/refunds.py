"""Refunds through the payment provider, which also claw back the credits of the payment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from secrets import token_bytes
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.billing.payments import existing_payment
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.checkout import CheckoutServiceDep
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, UNKNOWN
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.fields import Line, Price
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, page_of
from gateway.clock import now
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import Claim
from gateway.ledger.payments import manual_payments, payments
from gateway.ledger.payments.payment_booking import refundable_amount
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.subscriptions.subscriptions import MANUAL
from policies.billing.money import rounded

router = APIRouter(prefix="/refunds", tags=["payments"])


class NewRefund(RequestModel):
    payment_id: UUID
    amount: Price | None = Field(default=None, examples=["10.00"], description="null: all that is left of it.")
    reason: Line = Field(examples=["asked for within the trial"])


@router.get("", summary="List refunds, newest first")
async def list_refunds(query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Payment]:
    async with unit_of_work.read() as connection:
        page = await payments.list_payments(
            connection, transaction_type="refund", cursor=query.cursor, limit=query.limit
        )
    return page_of(page, Payment.model_validate)


@router.post("", status_code=201, summary="Refund a payment", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def create_refund(body: NewRefund, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep) -> Payment:
    """Gives the payment as it is then. What is left of its credits is taken back; the rest is the account's debt.

    Of a payment that was recorded here, this records that its money went back: first what pays no invoice, then what
    invoices were overpaid; an invoice whose money went back is open again.
    """
    async with unit_of_work.read() as connection:
        payment = await existing_payment(connection, body.payment_id)
        provider_payment_id = payment.provider_payment_id
    if payment.transaction_type not in ("subscription", "credits"):
        raise Conflict(f"A {payment.transaction_type} cannot be refunded, only a payment.")
    amount = _refund_amount(body.amount, payment)
    if payment.provider == MANUAL:
        return await _record_refund(payment, body.amount, unit_of_work, reason=body.reason)
    if provider_payment_id is None:
        raise Conflict("This payment has no id at its provider.")
    provider = checkout_service.provider(payment.provider)
    async with _only_refund(payment, unit_of_work):
        # The same key until the payment has changed, so that a repeated request refunds once.
        key = f"{payment.id}-{payment.refunded_amount}-{amount}"
        await provider.refund(provider_payment_id, amount=body.amount and amount, currency=payment.currency, key=key)
        update = await fetch_update(unit_of_work, provider, partial(provider.fetch_payment, provider_payment_id))
        async with unit_of_work.change() as change:
            await apply_update(change.connection, update)
            after = Payment.model_validate(await existing_payment(change.connection, payment.id))
            before = Payment.model_validate(payment)
            await change.record(
                "payments.refund", "payment", entity_id=payment.id, before=before, after=after, reason=body.reason
            )
    return after


@asynccontextmanager
async def _only_refund(payment: payments.Payment, unit_of_work: UnitOfWorkDep) -> AsyncIterator[None]:
    """Raises Conflict while another refund of the payment runs, or after one: not every provider knows keys.

    No connection is held meanwhile. A claim whose process died ends with those of Idempotency-Keys, after a day.
    """
    claim = Claim(f"refund of {payment.id}", key_hash=b"", fingerprint=b"", nonce=token_bytes(16))
    async with unit_of_work.change() as change:
        if await idempotency.claim(change.connection, claim) is not None:
            raise Conflict("Another refund of this payment is under way.")
    try:
        async with unit_of_work.read() as connection:
            current = await existing_payment(connection, payment.id)
        if current.refunded_amount != payment.refunded_amount:
            raise Conflict("Another refund of this payment has just ended: read the payment again.")
        yield
    finally:
        async with unit_of_work.change() as change:
            await idempotency.release(change.connection, claim)


async def _record_refund(
    found: payments.Payment, requested: Decimal | None, unit_of_work: UnitOfWorkDep, *, reason: str
) -> Payment:
    async with unit_of_work.change() as change:
        payment = await manual_payments.lock(change.connection, found.id)
        amount = _refund_amount(requested, payment)
        refunded = await manual_payments.refund(change.connection, payment.id, amount=amount, at=now(), reason=reason)
        before, after = Payment.model_validate(payment), Payment.model_validate(refunded)
        await change.record(
            "payments.refund", "payment", entity_id=payment.id, before=before, after=after, reason=reason
        )
    return after


def _refund_amount(requested: Decimal | None, payment: payments.Payment) -> Decimal:
    left = refundable_amount(payment)
    if payment.status not in ("completed", "partially_refunded"):
        raise Conflict(f"This payment is {payment.status}; only a completed one can be refunded.")
    if left <= 0:
        raise Conflict("Nothing was paid that could be refunded.")
    if requested is None:
        return left
    if requested != rounded(requested, payment.currency) or not 0 < requested <= left:
        raise Invalid("amount", f"must be above 0 and at most {left} {payment.currency}, in whole minor units")
    return requested
