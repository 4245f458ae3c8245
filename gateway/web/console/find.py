"""One box for whatever an operator has in hand; and a single call with its receipt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.web.console.in_process import is_uuid
from gateway.web.console.operator import Operator
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

_PATHS = {
    "call": "/calls/{id}",
    "key": "/accounts/{user_id}?key={id}#key-{id}",
    "invoice": "/money?list=invoices&id={id}",
    "payment": "/payments/{id}",
    "webhook_event": "/money?list=events&id={id}",
}
_TEXT_AT_LEAST = 2


@pages.get("/find")
async def show_find(page: Operator) -> Response:
    """What was found; of a single account or call its page at once."""
    wanted = (page.param("q") or "").strip()
    hits = []
    if len(wanted) >= _TEXT_AT_LEAST:
        hits = [{**hit, "path": _path(hit)} for hit in (await page.api.get("/search", q=wanted))["data"]]
    if len(hits) == 1 and not page.visit.is_partial:
        return page.visit.redirect(hits[0]["path"])
    recent = [] if wanted else (await page.api.get("/users", limit=15))["data"]
    return page.render("find.html", wanted=wanted, hits=hits, recent=recent, is_short=0 < len(wanted) < _TEXT_AT_LEAST)


@pages.get("/calls/{request_id}")
async def show_call(page: Operator) -> Response:
    if not is_uuid(page.path("request_id")):
        raise HTTPException(404)
    call = await page.api.get(f"/usage/{page.path('request_id')}")
    return page.render("call.html", call=call)


def _path(hit: Mapping[str, Any]) -> str:
    template = _PATHS.get(hit["kind"], "/accounts/{user_id}")
    return template.format(**hit)
