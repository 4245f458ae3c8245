"""Exports of calls: begun, seen to advance, canceled, downloaded."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from starlette.responses import Response

from gateway.web.console.in_process import segment
from gateway.web.console.operator import Operator
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

_FILTERS = ("user_id", "endpoint", "model", "plan_id", "outcome")


@pages.get("/usage/exports")
async def show_exports(page: Operator) -> Response:
    return await _exports_page(page)


@pages.post("/usage/exports")
async def begin_export(page: Operator) -> Response:
    form = page.form
    body: dict[str, Any] = {name: form.text(name) for name in _FILTERS if form.text(name)}
    for name, later in (("from", 0), ("to", 1)):
        if written := form.text(name):
            body[name] = _midnight(written, later=later)
    if await page.submit(lambda: page.api.post("/usage/exports", body)) is None:
        return await _exports_page(page)
    return page.visit.redirect("/usage/exports", "The export has begun.")


@pages.post("/usage/exports/{run_id}/cancel")
async def cancel_export(page: Operator) -> Response:
    await page.api.post(f"/usage/exports/{segment(page.path('run_id'))}/cancel")
    return page.visit.redirect("/usage/exports", "The export is canceled.")


@pages.get("/usage/exports/{run_id}/file")
async def download_export(page: Operator) -> Response:
    path = f"/usage/exports/{segment(page.path('run_id'))}"
    export = await page.api.get(path)
    if export["state"] != "done":
        return page.visit.redirect("/usage/exports", "The file is there once the export is done.", tone="problem")
    return page.api.forwarded(f"{path}/file")


async def _exports_page(page: Operator) -> Response:
    exports = (await page.api.get("/usage/exports"))["data"]
    is_running = any(export["state"] == "running" for export in exports)
    form: Form = page.form
    return page.render("exports.html", status=form.status, exports=exports, is_running=is_running, form=form)


def _midnight(day: str, *, later: int) -> str:
    """In UTC; what is no day comes as it was written, for the API to refuse."""
    try:
        begins = datetime.combine(date.fromisoformat(day), time(), UTC) + timedelta(days=later)
    except (ValueError, OverflowError):
        return day
    return begins.isoformat()
