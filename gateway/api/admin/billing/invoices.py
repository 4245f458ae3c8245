"""Invoices: those of the providers, and those issued here for subscriptions that no provider bills."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.checkout import CheckoutServiceDep
from gateway.api.errors import Conflict
from gateway.api.invoice_documents import as_pdf, html_response
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.billing_records import Invoice
from gateway.api.schemas.fields import Rate
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, page_of
from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.db.errors import AlreadyExists, NotFound
from gateway.ledger.invoicing import invoices, issued_invoices
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.allowances import plan_of

router = APIRouter(prefix="/invoices", tags=["payments"])


class InvoiceQuery(PageQuery):
    user_id: UUID | None = None
    status: Literal["draft", "open", "paid", "void", "uncollectible"] | None = None


class NewInvoice(RequestModel):
    subscription_id: UUID = Field(description="One that no payment provider bills.")
    tax_rate: Rate | None = Field(default=None, examples=["0.19"], description="A fraction; null: the configured one.")


class InvoiceOutcome(RequestModel):
    status: Literal["paid", "void", "uncollectible"] = Field(examples=["paid"])


@router.get("", summary="List invoices, newest first")
async def list_invoices(query: Annotated[InvoiceQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Invoice]:
    async with unit_of_work.read() as connection:
        page = await invoices.list_invoices(connection, **query.model_dump())
    return page_of(page, Invoice.model_validate)


@router.post("", status_code=201, summary="Issue an invoice", responses=UNKNOWN | CONFLICTS)
async def issue_invoice(body: NewInvoice, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep) -> Invoice:
    """For the period that the subscription is in, by its plan's pricing model, and for changes of plan or seats since
    the last one: unused time is given back, remaining time asked for. Final once it is issued."""
    async with unit_of_work.change() as change:
        found = await subscriptions.get_for_update(change.connection, body.subscription_id)
        if found.provider != subscriptions.MANUAL:
            raise Conflict(f"{found.provider} bills this subscription and makes its invoices.")
        made = await issued_invoices.issue_next(
            change.connection,
            found,
            plan=await plan_of(change.connection, found),
            tax_rate=checkout_service.tax_rate if body.tax_rate is None else body.tax_rate,
            now=now(),
        )
        issued = Invoice.model_validate(made)
        await change.record("invoices.issue", "invoice", entity_id=issued.id, after=issued)
    return issued


@router.get("/{invoice_id}", summary="Get an invoice", responses=UNKNOWN)
async def get_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Invoice:
    async with unit_of_work.read() as connection:
        return Invoice.model_validate(await _existing(connection, invoice_id))


@router.get("/{invoice_id}/html", summary="An invoice as a page", responses=UNKNOWN, response_class=Response)
async def show_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Response:
    return html_response(*await _with_user(unit_of_work, invoice_id))


@router.get("/{invoice_id}/pdf", summary="An invoice as a PDF file", responses=UNKNOWN, response_class=Response)
async def download_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Response:
    return Response(as_pdf(*await _with_user(unit_of_work, invoice_id)), media_type="application/pdf")


@router.post("/{invoice_id}/settle", summary="Say what became of an open invoice", responses=UNKNOWN | CONFLICTS)
async def settle_invoice(invoice_id: UUID, body: InvoiceOutcome, unit_of_work: UnitOfWorkDep) -> Invoice:
    """What a void invoice asked for is asked for by the next one of its subscription."""
    async with unit_of_work.change() as change:
        settled = Invoice.model_validate(await _close(change.connection, invoice_id, body.status))
        await change.record("invoices.settle", "invoice", entity_id=invoice_id, after=settled)
    return settled


@router.post(
    "/{invoice_id}/credit-note", status_code=201, summary="Take back an invoice", responses=UNKNOWN | CONFLICTS
)
async def take_back_invoice(invoice_id: UUID, unit_of_work: UnitOfWorkDep) -> Invoice:
    """An issued invoice never changes; its credit note takes it back whole, under a number of its own. What was on it
    is not asked for again."""
    async with unit_of_work.change() as change:
        found = await issued_invoices.get_for_update(change.connection, invoice_id)
        if found.number is None or found.corrects_id is not None or found.status == "void":
            raise Conflict("Only an invoice issued here, neither a credit note nor void, can be taken back.")
        try:
            made = await invoices.issue_credit_note(change.connection, found, now=now())
        except AlreadyExists:
            raise Conflict("This invoice has its credit note.") from None
        note = Invoice.model_validate(made)
        await change.record("invoices.take_back", "invoice", entity_id=invoice_id, after=note)
    return note


async def _close(connection: AsyncConnection, invoice_id: UUID, status: str) -> invoices.Invoice:
    if status == "void":
        return await issued_invoices.void(
            connection, await issued_invoices.get_for_update(connection, invoice_id), now=now()
        )
    return await invoices.close(connection, invoice_id, status=status, now=now())


async def _existing(connection: AsyncConnection, invoice_id: UUID) -> invoices.Invoice:
    found = await invoices.get(connection, invoice_id)
    if found is None:
        raise NotFound("invoice", invoice_id)
    return found


async def _with_user(unit_of_work: UnitOfWorkDep, invoice_id: UUID) -> tuple[Invoice, User]:
    async with unit_of_work.read() as connection:
        found = await _existing(connection, invoice_id)
        user = await users.get(connection, found.user_id)
    if user is None:
        raise NotFound("user", found.user_id)
    return Invoice.model_validate(found), user
