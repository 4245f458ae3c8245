"""The start page of a customer."""

from __future__ import annotations

from starlette.responses import Response

from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer

customers: PageRoutes[Customer] = PageRoutes()


@customers.get("")
async def show_home(page: Customer) -> Response:
    return page.visit.render("portal/home.html")
