"""Refunds: money given back by the provider, and the credits that it bought taken back."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.billing.payments import existing_payment
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.checkout import TheTill
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, UNKNOWN
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.fields import Line, Price
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, page_of
from gateway.ledger.payments import payments, provider_sync
from gateway.ledger.payments.payment_booking import money_of
from gateway.ledger.payments.provider_updates import News, take
from policies.billing.money import rounded

router = APIRouter(prefix="/refunds", tags=["payments"])


class NewRefund(RequestModel):
    payment_id: UUID
    amount: Price | None = Field(default=None, examples=["10.00"], description="null: all that is left of it.")
    reason: Line = Field(examples=["asked for within the trial"])


@router.get("", summary="List refunds, newest first")
async def list_refunds(wanted: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Payment]:
    async with unit_of_work.read() as connection:
        page = await payments.list_payments(
            connection, transaction_type="refund", cursor=wanted.cursor, limit=wanted.limit
        )
    return page_of(page, Payment.model_validate)


@router.post("", status_code=201, summary="Refund a payment", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def create_refund(body: NewRefund, unit_of_work: UnitOfWorkDep, till: TheTill) -> Payment:
    """Gives the payment as it is then. What is left of its credits is taken back; the rest is the account's debt."""
    async with unit_of_work.read() as connection:
        payment = await existing_payment(connection, body.payment_id)
        fetched_from = payment.provider_payment_id
    if fetched_from is None or payment.transaction_type not in ("subscription", "credits"):
        raise Conflict(f"A {payment.transaction_type} cannot be refunded, only a payment.")
    amount = _amount(body.amount, payment)
    provider = till.provider(payment.provider)
    # The same wish until the payment has changed: asked twice by mistake, money goes back once.
    key = f"{payment.id}-{payment.refunded_amount}-{amount}"
    await provider.refund(fetched_from, amount=body.amount and amount, currency=payment.currency, key=key)
    async with unit_of_work.read() as connection:
        fetched_at = await provider_sync.time_of_fetch(connection)
    snapshot = await provider.fetch_payment(fetched_from)
    async with unit_of_work.change() as change:
        await take(change.connection, News(provider.name, snapshot, fetched_at))
        after = Payment.model_validate(await existing_payment(change.connection, payment.id))
        before = Payment.model_validate(payment)
        await change.record(
            "payments.refund", "payment", entity_id=payment.id, before=before, after=after, reason=body.reason
        )
    return after


def _amount(wanted: Decimal | None, payment: payments.Payment) -> Decimal:
    left = money_of(payment)
    if payment.status not in ("completed", "partially_refunded"):
        raise Conflict(f"This payment is {payment.status}; only a completed one can be refunded.")
    if wanted is None:
        return left
    if wanted != rounded(wanted, payment.currency) or not 0 < wanted <= left:
        raise Invalid("amount", f"must be above 0 and at most {left} {payment.currency}, in whole minor units")
    return wanted
