"""Why a call was refused, and what it would cost: a dry run of a call with a key."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.web.console.operator import Operator
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

_NUMBERS = ("units", "input_tokens", "output_tokens", "body_bytes")


@pages.get("/why")
async def show_why(page: Operator) -> Response:
    return await _why_page(page)


@pages.post("/why")
async def answer_why(page: Operator) -> Response:
    """The key is in the form alone: never in an address, a log or the page."""
    form = page.form
    body: dict[str, Any] = {"key": form.raw("key").strip()}
    body |= {name: form.text(name) for name in ("route", "model", "client_ip") if form.text(name)}
    body |= {name: form.whole(name) for name in _NUMBERS if form.text(name)}
    verdict = await page.submit(lambda: page.api.post("/keys/verify", body))
    return await _why_page(page, verdict=verdict)


async def _why_page(page: Operator, *, verdict: Any = None) -> Response:
    routes = sorted((route["endpoint"], route["endpoint"]) for route in await _routes(page))
    return page.render("why.html", status=page.form.status, form=page.form, verdict=verdict, routes=routes)


async def _routes(page: Operator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await page.api.get("/system"))["routes"]
    return found
