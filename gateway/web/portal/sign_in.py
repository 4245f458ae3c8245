"""Signing up, in and out; verifying an address; setting a new password."""

from __future__ import annotations

from fastapi import BackgroundTasks
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.api.account.login import handed_over, recovery, sessions
from gateway.api.account.login.password_login import sign_in
from gateway.api.account.login.recovery import EmailVerification, PasswordReset, PasswordResetRequest
from gateway.api.account.login.sessions import Login, Registration
from gateway.api.account.schemas import TokenPair
from gateway.api.hand_over import SESSION_LIFETIME
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Leaver, Stranger, begin, end_former, forget
from gateway.web.site import Visit

strangers: PageRoutes[Stranger] = PageRoutes()
leavers: PageRoutes[Leaver] = PageRoutes()

MAX_CODE_CHARACTERS = 4000
ATTEMPTS = ("/sign-in", "/sign-up", "/forgot", "/reset", "/verify")


@strangers.get("/sign-in")
async def show_sign_in(page: Stranger) -> Response:
    return _sign_in_page(page)


@strangers.post("/sign-in")
async def submit_sign_in(page: Stranger) -> Response:
    visit, form, account = page.visit, page.visit.form, page.portal.account

    async def call() -> TokenPair:
        login = Login(email=form.required("email"), password=form.raw("password"))
        return await sign_in(account, login.email, password=login.password, address=visit.address)

    pair = await form.submit(call)
    session_id = None if pair is None else account.tokens.read(pair.access_token)
    if session_id is None:
        return _sign_in_page(page, status=form.status)
    await end_former(visit, page.portal)
    begin(visit, page.portal, session_id)
    return visit.redirect(visit.local(form.raw("next")))


@leavers.post("/sign-out")
async def sign_out(page: Leaver) -> Response:
    await sessions.end_session(page.portal.account, page.session_id)
    forget(page.visit)
    return page.visit.redirect("/sign-in", "You are signed out.")


@strangers.get("/enter", is_good_once=True)
async def enter(page: Stranger) -> Response:
    """The link of a session that a product hands over."""
    code = page.visit.request.query_params.get("code", "")[:MAX_CODE_CHARACTERS]
    entered = await handed_over.redeem(page.portal.account, code, address=page.visit.address)
    await end_former(page.visit, page.portal)
    begin(page.visit, page.portal, entered.session_id, lifetime=SESSION_LIFETIME, return_url=entered.return_url)
    return page.visit.redirect("")


@strangers.get("/sign-up")
async def show_sign_up(page: Stranger) -> Response:
    _require_sign_up(page)
    return page.visit.render("portal/sign_up.html", form=page.visit.form)


@strangers.post("/sign-up")
async def submit_sign_up(page: Stranger) -> Response:
    _require_sign_up(page)
    visit, form = page.visit, page.visit.form

    async def call() -> object:
        names = {"name": form.text("name"), "company": form.text("company")}
        body = Registration(email=form.required("email"), password=form.raw("password"), **names)
        return await sessions.register(body, page.portal.account, visit.address)

    if await form.submit(call) is None:
        return visit.render("portal/sign_up.html", status=form.status, form=form)
    text = "Your account is open. A mail asks you to verify the address; you can sign in at once."
    return visit.redirect("/sign-in", text)


@strangers.get("/forgot")
async def show_forgot(page: Stranger) -> Response:
    return page.visit.render("portal/forgot.html", form=page.visit.form)


@strangers.post("/forgot")
async def submit_forgot(page: Stranger) -> Response:
    visit, form, later = page.visit, page.visit.form, BackgroundTasks()

    async def call() -> bool:
        body = PasswordResetRequest(email=form.required("email"))
        await recovery.forgot_password(body, page.portal.account, visit.address, later)
        return True

    if await form.submit(call) is None:
        return visit.render("portal/forgot.html", status=form.status, form=form)
    response = visit.redirect("/sign-in", "If there is an account of this address, a mail is on its way to it.")
    response.background = later
    return response


@strangers.get("/reset")
async def show_reset(page: Stranger) -> Response:
    return page.visit.render("portal/reset.html", form=page.visit.form, token=_token_in(page.visit))


@strangers.post("/reset")
async def submit_reset(page: Stranger) -> Response:
    visit, form = page.visit, page.visit.form

    async def call() -> bool:
        body = PasswordReset(token=form.raw("token"), password=form.raw("password"))
        await recovery.reset_password(body, page.portal.account, visit.address)
        return True

    if await form.submit(call) is None:
        return visit.render("portal/reset.html", status=form.status, form=form, token=form.raw("token"))
    return visit.redirect("/sign-in", "Your new password is set. Sign in by it.")


@strangers.get("/verify")
async def show_verify(page: Stranger) -> Response:
    """A form, since programs that read mail follow links too."""
    return page.visit.render("portal/verify.html", form=page.visit.form, token=_token_in(page.visit))


@strangers.post("/verify")
async def submit_verify(page: Stranger) -> Response:
    visit, form = page.visit, page.visit.form

    async def call() -> bool:
        await recovery.verify_email(EmailVerification(token=form.raw("token")), page.portal.account, visit.address)
        return True

    if await form.submit(call) is None:
        return visit.render("portal/verify.html", status=form.status, form=form, token=form.raw("token"))
    return visit.redirect("", "Your address is verified.")


def _sign_in_page(page: Stranger, *, status: int = 200) -> Response:
    form = page.visit.form
    wanted = form.raw("next") or page.visit.request.query_params.get("next", "")
    return page.visit.render("portal/sign_in.html", status=status, form=form, next=wanted)


def _token_in(visit: Visit) -> str:
    return visit.request.query_params.get("token", "")[:200]


def _require_sign_up(page: Stranger) -> None:
    if not page.portal.settings.sign_up:
        raise HTTPException(404)
