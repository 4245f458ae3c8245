"""The installation: processes, upstreams, stores, what was set aside, and whether the books agree."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.web.console.operator import Operator
from gateway.web.console.today import warnings_of
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()


@pages.get("/system")
async def show_system(page: Operator) -> Response:
    return await _system_page(page)


@pages.post("/system/reconcile")
async def reconcile(page: Operator) -> Response:
    """Compares the books of all accounts; with `repair` it ends each difference, by the token once more."""
    repairs = page.form.is_checked("repair")
    if repairs and not await page.prove():
        return await _system_page(page, status=422)
    report = await page.submit(lambda: page.api.post("/reconcile", {"repair": repairs}))
    return await _system_page(page, status=page.form.status, report=report)


async def _system_page(page: Operator, *, status: int = 200, report: Any = None) -> Response:
    system = await page.api.get("/system")
    trouble = (await page.api.get("/overview"))["trouble"]
    poison = await page.api.get("/poison-entries", cursor=page.param("cursor"), limit=20)
    context = {"system": system, "trouble": trouble, "poison": poison, "report": report, "form": page.form}
    return page.render("system.html", status=status, warnings=warnings_of(trouble), **context)
