"""Signing in by an admin token, and out; `single_sign_on` has the other ways."""

from __future__ import annotations

from secrets import token_urlsafe

from starlette.responses import Response

from gateway.api.admin.auth import Actor
from gateway.web.console.operator import Operator, Outsider, begin, end_former, forget, sign_in
from gateway.web.console.single_sign_on import proxy
from gateway.web.pages import PageRoutes

strangers: PageRoutes[Outsider] = PageRoutes()
pages: PageRoutes[Operator] = PageRoutes()


@strangers.get("/sign-in")
async def show_sign_in(page: Outsider) -> Response:
    if proxy.identity_of(page.visit.request, page.console.settings.trusted_proxy) is not None:
        return page.visit.redirect("")
    return _sign_in_page(page)


@strangers.post("/sign-in")
async def submit_sign_in(page: Outsider) -> Response:
    visit, form = page.visit, page.visit.form

    async def call() -> Actor:
        return await sign_in(page.console, form.raw("token"), address=visit.address)

    actor = await form.submit(call)
    if actor is None:
        return _sign_in_page(page, status=form.status)
    await end_former(visit, page.console)
    begin(visit, actor, session_id=token_urlsafe(12))
    return visit.redirect(visit.local(form.raw("next")))


@pages.post("/sign-out")
async def sign_out(page: Operator) -> Response:
    await end_former(page.visit, page.console)
    forget(page.visit)
    return page.visit.redirect("/sign-in", "You are signed out.")


def _sign_in_page(page: Outsider, *, status: int = 200) -> Response:
    visit = page.visit
    wanted = visit.form.raw("next") or visit.request.query_params.get("next", "")
    return visit.render("console/sign_in.html", status=status, form=visit.form, next=wanted)
