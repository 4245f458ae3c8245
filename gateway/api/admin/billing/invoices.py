"""Invoices: those of the providers, and those issued here for subscriptions that no provider bills."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api import csv_export
from gateway.api.admin.billing.lists import BillingList, BillingQuery, group_by_field, list_or_sum, sort_field
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.checkout import CheckoutServiceDep
from gateway.api.errors import Conflict, Invalid
from gateway.api.invoices.responses import document_in, html_response, pdf_response
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.billing_records import Amount, Invoice, InvoiceRow
from gateway.api.schemas.fields import Instant, Line, Price, Rate
from gateway.api.schemas.pages import PageModel, RequestModel, ResponseModel
from gateway.clock import now
from gateway.ledger.db.errors import NotFound
from gateway.ledger.invoicing import closing, credit_notes, invoice_lists, invoices, issued_invoices
from gateway.ledger.invoicing.invoice_lists import InvoiceDimension, InvoiceFilter
from gateway.ledger.payments import manual_payments
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.billing.issuing import Issuer

router = APIRouter(prefix="/invoices", tags=["payments"])


class InvoiceQuery(BillingQuery):
    user_id: UUID | None = None
    subscription_id: UUID | None = None
    plan_id: Line | None = Field(default=None, description="The plan at the time of issue.")
    status: Literal["draft", "open", "paid", "void", "uncollectible"] | None = None
    provider: Line | None = Field(default=None, examples=["stripe"], description="`manual`: issued here.")
    currency: Line | None = Field(default=None, examples=["USD"])
    number: Line | None = Field(default=None, examples=["INV-2026-000012"], description="The number, bare or printed.")
    since: Instant | None = Field(default=None, alias="from", description="Issued from this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Issued before this instant.")
    sort: str | None = sort_field(invoice_lists.SORTABLE, invoice_lists.SUMS, example="-total")
    group_by: str | None = group_by_field(
        InvoiceDimension,
        of="invoices",
        example="month,status",
        without="Without drafts and void ones, unless `status` or grouping by it says otherwise.",
    )


class InvoiceSum(ResponseModel):
    """Invoices that share what they are grouped by; null where they are not grouped by it. Days are those of UTC."""

    day: date | None
    month: date | None = Field(description="Its first day.")
    provider: str | None
    plan_id: str | None
    status: str | None
    user_id: UUID | None
    currency: str
    invoices: int = Field(description="Credit notes included, whose amounts are negative.")
    subtotal: Amount
    tax: Amount
    total: Amount
    amount_paid: Amount
    amount_credited: Amount
    amount_due: Amount


class NewInvoice(RequestModel):
    subscription_id: UUID = Field(description="One that no payment provider bills.")
    period_start: Instant | None = Field(
        default=None,
        description="The start of a past period that has no invoice yet; null: the period that the subscription is in.",
    )
    tax_rate: Rate | None = Field(default=None, examples=["0.19"], description="A fraction; null: the configured one.")


class InvoiceOutcome(RequestModel):
    status: Literal["paid", "void", "uncollectible"] = Field(examples=["paid"])


class NewCreditNote(RequestModel):
    amount: Price | None = Field(
        default=None, examples=["5.00"], description="Of the total, tax included; null: all that is not credited yet."
    )
    reason: Line | None = Field(default=None, examples=["goodwill"], description="Printed on the credit note.")


RECORDS = BillingList(
    file_name="invoices.csv",
    filter=InvoiceFilter,
    dimension=InvoiceDimension,
    list_page=invoice_lists.list_invoices,
    sum_page=invoice_lists.sum_invoices,
    render=Invoice.model_validate,
    render_row=InvoiceRow.of,
    render_sum=InvoiceSum.model_validate,
    columns=InvoiceRow.model_fields,
    sum_columns=InvoiceSum.model_fields,
    sortable=invoice_lists.SORTABLE,
    sortable_sums=invoice_lists.SUMS,
)


@router.get(
    "",
    summary="List or sum invoices",
    response_model=PageModel[InvoiceSum] | PageModel[Invoice],
    responses=csv_export.CSV,
)
async def list_invoices(
    query: Annotated[InvoiceQuery, Query()], request: Request, unit_of_work: UnitOfWorkDep
) -> PageModel[Any] | Response:
    """Newest first unless `sort` says otherwise. As CSV with `?format=csv` or `Accept: text/csv`, a row an invoice."""
    return await list_or_sum(RECORDS, query, request=request, unit_of_work=unit_of_work)


@router.post("", status_code=201, summary="Issue an invoice", responses=UNKNOWN | CONFLICTS)
async def issue_invoice(body: NewInvoice, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep) -> Invoice:
    """For the period that the subscription is in, or a past one, by its plan's pricing model, and for changes of plan
    or seats since the last one: unused time is given back, remaining time asked for. Final once it is issued.

    A worker issues the invoices of ended periods by itself, unless `billing.invoices.automatic` is false.
    """
    issuer = checkout_service.issuer
    if body.tax_rate is not None:
        issuer = replace(issuer, tax_rate=body.tax_rate)
    async with unit_of_work.change() as change:
        found = await subscriptions.get_for_update(change.connection, body.subscription_id)
        if found.provider != subscriptions.MANUAL:
            raise Conflict(f"{found.provider} bills this subscription and makes its invoices.")
        made = await _issue(change.connection, found, start=body.period_start, issuer=issuer)
        issued = Invoice.model_validate(made)
        await change.record("invoices.issue", "invoice", entity_id=issued.id, after=issued)
    return issued


@router.get("/{invoice_id}", summary="Get an invoice", responses=UNKNOWN)
async def get_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Invoice:
    async with unit_of_work.read() as connection:
        return Invoice.model_validate(await _existing(connection, invoice_id))


@router.get("/{invoice_id}/html", summary="An invoice as a page", responses=UNKNOWN, response_class=Response)
async def show_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Response:
    async with unit_of_work.read() as connection:
        return html_response(await document_in(connection, await _existing(connection, invoice_id)))


@router.get("/{invoice_id}/pdf", summary="An invoice as a PDF file", responses=UNKNOWN, response_class=Response)
async def download_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Response:
    async with unit_of_work.read() as connection:
        document = await document_in(connection, await _existing(connection, invoice_id))
    return await pdf_response(document)


@router.post("/{invoice_id}/settle", summary="Say what became of an open invoice", responses=UNKNOWN | CONFLICTS)
async def settle_invoice(invoice_id: UUID, body: InvoiceOutcome, unit_of_work: UnitOfWorkDep) -> Invoice:
    """What a void invoice asked for is asked for by the next one of its subscription. `paid` records a payment of what
    is due; `POST /payments` records one that has a date and a reference."""
    async with unit_of_work.change() as change:
        settled = Invoice.model_validate(await _close(change.connection, invoice_id, body.status))
        await change.record("invoices.settle", "invoice", entity_id=invoice_id, after=settled)
    return settled


@router.post(
    "/{invoice_id}/credit-note",
    status_code=201,
    summary="Take back an invoice, or a part of it",
    responses=UNKNOWN | CONFLICTS,
)
async def credit_invoice(
    invoice_id: UUID,
    unit_of_work: UnitOfWorkDep,
    checkout_service: CheckoutServiceDep,
    body: NewCreditNote | None = None,
) -> Invoice:
    """An issued invoice never changes; credit notes take it back, under numbers of their own and never more than its
    total. What was on it is not asked for again. An invoice of which nothing is left to pay becomes `paid`."""
    wanted = body or NewCreditNote()
    async with unit_of_work.change() as change:
        found = await issued_invoices.get_for_update(change.connection, invoice_id)
        try:
            made = await credit_notes.issue(
                change.connection,
                found,
                issuer=checkout_service.issuer,
                amount=wanted.amount,
                reason=wanted.reason,
                now=now(),
            )
        except ValueError as error:
            raise Invalid("amount", str(error)) from None
        note = Invoice.model_validate(made)
        await change.record("invoices.credit", "invoice", entity_id=invoice_id, after=note, reason=wanted.reason)
    return note


async def _issue(
    connection: AsyncConnection, subscription: StoredSubscription, *, start: datetime | None, issuer: Issuer
) -> invoices.Invoice:
    if start is not None and start != subscription.current_period_start:
        return await closing.close_named(connection, subscription, start=start, issuer=issuer, now=now())
    plan = await plan_of(connection, subscription)
    return await issued_invoices.issue_next(connection, subscription, plan=plan, issuer=issuer, now=now())


async def _close(connection: AsyncConnection, invoice_id: UUID, status: str) -> invoices.Invoice:
    if status == "void":
        return await issued_invoices.void(
            connection, await issued_invoices.get_for_update(connection, invoice_id), now=now()
        )
    if status == "paid":
        return await manual_payments.settle(connection, invoice_id, at=now())
    return await invoices.close(connection, invoice_id, status=status, now=now())


async def _existing(connection: AsyncConnection, invoice_id: UUID) -> invoices.Invoice:
    found = await invoices.get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    return found
