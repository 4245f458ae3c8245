"""Payments and invoices of a customer."""

from __future__ import annotations

from starlette.responses import Response

from gateway.api.account.billing import coupons, statements
from gateway.api.schemas.coupons import OwnRedemption
from gateway.api.schemas.pages import PageQuery
from gateway.web.forms import in_address
from gateway.web.pages import PageRoutes, uuid_in_path
from gateway.web.portal.customer import Customer

ROWS = 25

customers: PageRoutes[Customer] = PageRoutes()


@customers.get("/billing")
async def show_billing(page: Customer) -> Response:
    """The newest of both; each list has a page of its own beside."""
    newest = PageQuery(limit=10)
    return page.visit.render(
        "portal/billing.html",
        invoices=await statements.list_my_invoices(newest, page.me),
        payments=await statements.list_my_payments(newest, page.me),
        redemptions=await _redeemed(page),
    )


@customers.get("/billing/invoices")
async def list_invoices(page: Customer) -> Response:
    found = await statements.list_my_invoices(_page_query(page), page.me)
    return page.visit.render("portal/invoices.html", invoices=found)


@customers.get("/billing/payments")
async def list_payments(page: Customer) -> Response:
    found = await statements.list_my_payments(_page_query(page), page.me)
    return page.visit.render("portal/payments.html", payments=found)


@customers.get("/billing/invoices/{invoice_id}")
async def show_invoice(page: Customer) -> Response:
    """The document itself, under its own policy."""
    return await statements.show_my_invoice(uuid_in_path(page.visit, "invoice_id"), page.me.id, page.portal.account)


@customers.get("/billing/invoices/{invoice_id}/pdf")
async def download_invoice(page: Customer) -> Response:
    return await statements.download_my_invoice(uuid_in_path(page.visit, "invoice_id"), page.me.id, page.portal.account)


def _page_query(page: Customer) -> PageQuery:
    return in_address(PageQuery, {"limit": ROWS, "cursor": page.visit.request.query_params.get("cursor")})


async def _redeemed(page: Customer) -> list[OwnRedemption]:
    used = await coupons.list_my_coupons(PageQuery(limit=ROWS), page.me)
    return [each for each in used.data if each.status == "redeemed"]
