"""Invoices as pages and files to download."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template, select_autoescape
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import HTMLResponse, Response

from gateway.api.invoices.document import Document, document_of
from gateway.api.invoices.pdf import as_pdf
from gateway.api.page_policy import policy_of
from gateway.ledger.invoicing import invoices
from gateway.ledger.invoicing.invoices import Invoice
from policies.billing.issuing import to_json

_HERE = Path(__file__).parent
_NAME = "invoice.html"


async def document_in(connection: AsyncConnection, invoice: Invoice) -> Document:
    """The invoice with what it refers to; one of a release that kept no buyer names the account as it is."""
    corrected = None if invoice.corrects_id is None else await invoices.get(connection, invoice.corrects_id)
    if invoice.buyer is None:
        invoice = replace(invoice, buyer=to_json(await invoices.get_buyer(connection, invoice.user_id)))
    return document_of(invoice, corrected=corrected)


def as_html(document: Document) -> str:
    return _template().render(document=document)


def html_response(document: Document) -> HTMLResponse:
    return HTMLResponse(as_html(document), headers={"content-security-policy": _policy()})


async def pdf_response(document: Document) -> Response:
    content = await asyncio.to_thread(as_pdf, document)
    headers = {"content-disposition": f'inline; filename="{document.file_name}.pdf"'}
    return Response(content, media_type="application/pdf", headers=headers)


@cache
def _policy() -> str:
    return policy_of((_HERE / _NAME).read_text("utf-8"))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(_NAME)
