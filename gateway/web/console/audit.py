"""The audit log with the state of its chain, and the admin tokens."""

from __future__ import annotations

from starlette.responses import Response

from gateway.api.admin.scopes import SCOPES
from gateway.web.console.in_process import segment
from gateway.web.console.operator import Operator
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

_FILTERS = ("actor", "action", "entity", "entity_id")


@pages.get("/audit")
async def show_audit(page: Operator) -> Response:
    within = {name: page.param(name) for name in _FILTERS}
    entries = await page.api.get("/audit-log", **within, cursor=page.param("cursor"), limit=30)
    chain = await page.api.get("/audit-log/chain") if page.param("verify") else None
    return page.render("audit.html", page=entries, chain=chain, form=Form(defaults=within))


@pages.get("/tokens")
async def show_tokens(page: Operator) -> Response:
    return await _tokens_page(page)


@pages.post("/tokens")
async def create_token(page: Operator) -> Response:
    """The answer shows the token, this once."""
    form = page.form
    body = {"name": form.required("name"), "scopes": form.listed("scopes")}
    issued = await page.submit(lambda: page.api.post("/admin-tokens", body, once=page.once))
    return await _tokens_page(page, status=form.status, issued=issued)


@pages.post("/tokens/{token_id}/revoke")
async def revoke_token(page: Operator) -> Response:
    if not await page.prove():
        return await _tokens_page(page, status=422)
    await page.api.post(f"/admin-tokens/{segment(page.path('token_id'))}/revoke")
    return page.visit.redirect("/tokens", "The token is revoked, and its sessions are over.")


async def _tokens_page(page: Operator, *, status: int = 200, issued: object = None) -> Response:
    tokens = await page.api.get("/admin-tokens", cursor=page.param("cursor"), limit=50)
    context = {"page": tokens, "form": page.form, "issued": issued, "scopes": sorted(SCOPES)}
    return page.render("tokens.html", status=status, **context)
