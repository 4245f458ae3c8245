"""Payments: charges, refunds and disputes in the state of their provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api import csv_export
from gateway.api.admin.billing.lists import BillingList, BillingQuery, group_by_field, list_or_sum, sort_field
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.billing_records import Payment
from gateway.api.schemas.fields import Currency, Instant, Line, Price
from gateway.api.schemas.pages import PageModel, RequestModel, ResponseModel
from gateway.clock import now
from gateway.ledger.db.errors import AlreadyExists, InUse, NotFound
from gateway.ledger.payments import manual_payments, payment_lists, payments
from gateway.ledger.payments.payment_lists import PaymentDimension, PaymentFilter
from gateway.ledger.subscriptions.subscriptions import MANUAL
from policies.billing.money import fits, plain

router = APIRouter(prefix="/payments", tags=["payments"])

# Somewhere it is tomorrow already.
_AHEAD = timedelta(days=1)


class PaymentQuery(BillingQuery):
    user_id: UUID | None = None
    transaction_type: Literal["subscription", "credits", "refund", "dispute"] | None = None
    status: Literal["pending", "completed", "failed", "refunded", "partially_refunded", "disputed"] | None = None
    provider: Line | None = Field(default=None, examples=["stripe"], description="`manual`: recorded here.")
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    currency: Line | None = Field(default=None, examples=["USD"])
    since: Instant | None = Field(default=None, alias="from", description="Processed from this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Processed before this instant.")
    sort: str | None = sort_field(payment_lists.SORTABLE, payment_lists.SUMS, example="-amount")
    group_by: str | None = group_by_field(
        PaymentDimension,
        of="payments",
        example="month,provider",
        without="Only of what customers paid, unless `transaction_type` or `type` says otherwise.",
    )


class PaidInvoice(ResponseModel):
    invoice_id: UUID
    amount: str = Field(description="The part of the payment that pays it.", examples=["29.99"])


class PaymentDetails(Payment):
    invoices: list[PaidInvoice] = Field(description="What a payment that was recorded here pays.")
    unmatched_amount: str = Field(description="Of a payment that was recorded here: what pays no invoice.")


class InvoiceToPay(RequestModel):
    invoice_id: UUID
    amount: Price | None = Field(default=None, description="null: all that is due, as far as the payment reaches.")


class NewPayment(RequestModel):
    user_id: UUID
    amount: Price = Field(examples=["29.99"])
    currency: Currency = "USD"
    received_at: Instant | None = Field(default=None, description="null: now.")
    reference: Line | None = Field(default=None, description="The bank's; a payment of it is recorded once.")
    payment_method: Line = "bank_transfer"
    description: Line | None = None
    invoices: list[InvoiceToPay] | None = Field(
        default=None, max_length=100, description="What it pays; null: the user's open invoices, the oldest first."
    )


class InvoicesToPay(RequestModel):
    invoices: list[InvoiceToPay] | None = Field(
        default=None, max_length=100, description="null: the user's open invoices, the oldest first."
    )


class PaymentSum(ResponseModel):
    """Payments that share what they are grouped by; null where they are not grouped by it. Days are those of UTC."""

    day: date | None
    month: date | None = Field(description="Its first day.")
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


RECORDS = BillingList(
    file_name="payments.csv",
    filter=PaymentFilter,
    dimension=PaymentDimension,
    list_page=payment_lists.list_payments,
    sum_page=payment_lists.sum_payments,
    render=Payment.model_validate,
    render_row=Payment.model_validate,
    render_sum=PaymentSum.model_validate,
    columns=Payment.model_fields,
    sum_columns=PaymentSum.model_fields,
    sortable=payment_lists.SORTABLE,
    sortable_sums=payment_lists.SUMS,
)


@router.get(
    "",
    summary="List or sum payments",
    response_model=PageModel[PaymentSum] | PageModel[Payment],
    responses=csv_export.CSV,
)
async def list_payments(
    query: Annotated[PaymentQuery, Query()], request: Request, unit_of_work: UnitOfWorkDep
) -> PageModel[Any] | Response:
    """Newest first unless `sort` says otherwise. As CSV with `?format=csv` or `Accept: text/csv`."""
    return await list_or_sum(RECORDS, query, request=request, unit_of_work=unit_of_work)


@router.post("", status_code=201, summary="Record a payment", responses=UNKNOWN | CONFLICTS)
async def record_payment(body: NewPayment, unit_of_work: UnitOfWorkDep) -> PaymentDetails:
    """Money that came past the payment providers, such as a bank transfer.

    It pays invoices issued here, in part, in full or several; what is left over stays on the payment.
    """
    if body.amount <= 0 or not fits(body.amount, body.currency):
        raise Invalid("amount", f"must be above 0, in whole minor units of {body.currency}")
    if body.received_at is not None and body.received_at > now() + _AHEAD:
        raise Invalid("received_at", "must not be in the future")
    received = manual_payments.Received(
        amount=body.amount,
        currency=body.currency,
        at=body.received_at or now(),
        method=body.payment_method,
        reference=body.reference,
        description=body.description,
    )
    async with unit_of_work.change() as change:
        with _fitting():
            made = await manual_payments.record(
                change.connection, body.user_id, received, wanted=_wanted(body.invoices, body.currency)
            )
        after = await _detailed(change.connection, made)
        await change.record("payments.record", "payment", entity_id=made.id, after=after)
    return after


@router.post("/{payment_id}/match", summary="Match the rest of a payment to invoices", responses=UNKNOWN | CONFLICTS)
async def match_payment(payment_id: UUID, body: InvoicesToPay, unit_of_work: UnitOfWorkDep) -> PaymentDetails:
    """Of one that was recorded here."""
    async with unit_of_work.change() as change:
        before = await existing_payment(change.connection, payment_id)
        with _fitting():
            wanted = _wanted(body.invoices, before.currency)
            matched = await manual_payments.match(change.connection, payment_id, wanted=wanted)
        after = await _detailed(change.connection, matched)
        await change.record("payments.match", "payment", entity_id=payment_id, after=after)
    return after


@router.get("/{payment_id}", summary="Get a payment", responses=UNKNOWN)
async def get_payment(payment_id: UUID, unit_of_work: UnitOfWorkDep) -> PaymentDetails:
    async with unit_of_work.read() as connection:
        return await _detailed(connection, await existing_payment(connection, payment_id))


async def _detailed(connection: AsyncConnection, payment: payments.Payment) -> PaymentDetails:
    is_manual = payment.provider == MANUAL and payment.transaction_type != "refund"
    paid = await manual_payments.list_allocations(connection, payment.id) if is_manual else []
    rest = await manual_payments.get_unmatched(connection, payment) if is_manual else Decimal(0)
    shown = Payment.model_validate(payment).model_dump()
    invoices = [PaidInvoice(invoice_id=each.invoice_id, amount=plain(each.amount)) for each in paid]
    return PaymentDetails(**shown, invoices=invoices, unmatched_amount=plain(rest))


def _wanted(invoices: list[InvoiceToPay] | None, currency: str) -> list[manual_payments.WantedAllocation] | None:
    if invoices is None:
        return None
    if any(each.amount is not None and (each.amount <= 0 or not fits(each.amount, currency)) for each in invoices):
        raise Invalid("invoices", f"amounts must be above 0, in whole minor units of {currency}")
    return [manual_payments.WantedAllocation(each.invoice_id, each.amount) for each in invoices]


@contextmanager
def _fitting() -> Iterator[None]:
    """Raises Invalid for more than the payment has, Conflict for what cannot be paid or is recorded already."""
    try:
        yield
    except InUse as error:
        raise Conflict(str(error)) from None
    except AlreadyExists:
        raise Conflict("A payment of this reference is recorded already.") from None
    except Invalid:
        raise
    except ValueError as error:
        raise Invalid("invoices", str(error)) from None


async def existing_payment(connection: AsyncConnection, payment_id: UUID) -> payments.Payment:
    found = await payments.get(connection, payment_id)
    if found is None:
        raise NotFound("payment", payment_id)
    return found
