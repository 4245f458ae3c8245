"""The user's own payments and invoices: as data, as pages and as files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.billing import invoice_links
from gateway.api.account.dependencies import DependenciesDep, InvoiceReader, Me
from gateway.api.invoices.responses import document_in, html_response, pdf_response
from gateway.api.openapi import SIGNED_IN, UNKNOWN
from gateway.api.schemas.billing_records import Invoice, Payment
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.db.errors import NotFound
from gateway.ledger.invoicing import invoices
from gateway.ledger.payments import payments

router = APIRouter(prefix="/me", tags=["billing"], responses=SIGNED_IN)


class InvoiceLinks(ResponseModel):
    html: str = Field(description="Path and query of the page, on this gateway.")
    pdf: str = Field(description="Path and query of the file, on this gateway.")
    expires_at: datetime


@router.get("/payments", summary="Your payments, refunds and disputes, newest first")
async def list_my_payments(query: Annotated[PageQuery, Query()], me: Me) -> PageModel[Payment]:
    async with me.unit_of_work.read() as connection:
        page = await payments.list_payments(connection, user_id=me.id, cursor=query.cursor, limit=query.limit)
    return page_of(page, Payment.model_validate)


@router.get("/invoices", summary="Your invoices, newest first")
async def list_my_invoices(query: Annotated[PageQuery, Query()], me: Me) -> PageModel[Invoice]:
    async with me.unit_of_work.read() as connection:
        page = await invoices.list_for_user(connection, me.id, cursor=query.cursor, limit=query.limit)
    return page_of(page, Invoice.model_validate)


@router.get("/invoices/{invoice_id}", summary="One of your invoices", responses=UNKNOWN)
async def get_my_invoice(invoice_id: UUID, me: Me) -> Invoice:
    async with me.unit_of_work.read() as connection:
        return Invoice.model_validate(await _own_invoice(connection, invoice_id, me.id))


@router.post("/invoices/{invoice_id}/links", summary="Links to an invoice for a browser", responses=UNKNOWN)
async def link_my_invoice(invoice_id: UUID, me: Me, dependencies: DependenciesDep) -> InvoiceLinks:
    """Whoever has one can read this invoice for fifteen minutes, and nothing else."""
    async with me.unit_of_work.read() as connection:
        await _own_invoice(connection, invoice_id, me.id)
    token, ends_at = invoice_links.token_for(dependencies.secret, me.id, invoice_id)
    path = f"/me/invoices/{invoice_id}"
    return InvoiceLinks(html=f"{path}/html?token={token}", pdf=f"{path}/pdf?token={token}", expires_at=ends_at)


@router.get("/invoices/{invoice_id}/html", summary="An invoice as a page", responses=UNKNOWN, response_class=Response)
async def show_my_invoice(invoice_id: UUID, owner: InvoiceReader, dependencies: DependenciesDep) -> Response:
    async with dependencies.database.read() as connection:
        return html_response(await document_in(connection, await _own_invoice(connection, invoice_id, owner)))


@router.get(
    "/invoices/{invoice_id}/pdf", summary="An invoice as a PDF file", responses=UNKNOWN, response_class=Response
)
async def download_my_invoice(invoice_id: UUID, owner: InvoiceReader, dependencies: DependenciesDep) -> Response:
    async with dependencies.database.read() as connection:
        document = await document_in(connection, await _own_invoice(connection, invoice_id, owner))
    return await pdf_response(document)


async def _own_invoice(connection: AsyncConnection, invoice_id: UUID, owner: UUID) -> invoices.Invoice:
    found = await invoices.get(connection, invoice_id)
    if found is None or found.user_id != owner or found.is_own_draft:
        raise NotFound("invoice", invoice_id)
    return found
