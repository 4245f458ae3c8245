"""The account itself: names and address, password, sessions, and its end."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.api.account import profile
from gateway.api.account.login import own_sessions
from gateway.api.account.profile import Deletion, PasswordChange, ProfilePatch
from gateway.api.account.schemas import Profile
from gateway.api.schemas.pages import PageQuery
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes, uuid_in_path
from gateway.web.portal.customer import Customer, forget

SESSIONS = 100
_TEXTS = ("name", "company", "billing_address", "vat_id", "time_zone", "email")

customers: PageRoutes[Customer] = PageRoutes()


@customers.get("/account")
async def show_account(page: Customer) -> Response:
    return await _render(page)


@customers.post("/account")
async def submit_account(page: Customer) -> Response:
    form = page.visit.form

    async def call() -> Profile:
        fields: dict[str, Any] = {name: form.text(name) for name in _TEXTS}
        fields["email"], fields["time_zone"] = form.required("email"), form.required("time_zone")
        if password := form.raw("password"):
            fields["password"] = password
        patch = ProfilePatch.model_validate(fields)
        return await profile.change_me(patch, page.me, page.portal.account, page.visit.address)

    changed = await form.submit(call)
    if changed is None:
        return await _render(page, details=form)
    is_moved = changed.email != page.me.user.email
    text = "Saved. A mail asks you to verify the new address." if is_moved else "Saved."
    return page.visit.redirect("/account", text)


@customers.post("/account/verify")
async def resend_verification(page: Customer) -> Response:
    form = page.visit.form

    async def call() -> bool:
        await profile.resend_verification(page.me, page.portal.account, page.visit.address)
        return True

    if await form.submit(call) is None:
        return page.visit.redirect("/account", form.message, tone="problem")
    return page.visit.redirect("/account", "The mail is on its way.")


@customers.post("/account/password")
async def change_password(page: Customer) -> Response:
    form = page.visit.form

    async def call() -> bool:
        names = ("current_password", "new_password")
        body = PasswordChange.model_validate({name: form.raw(name) for name in names})
        await profile.change_password(body, page.me, page.portal.account, page.visit.address)
        return True

    if await form.submit(call) is None:
        return await _render(page, password=form)
    return page.visit.redirect("/account", "Your password is changed, and your other sessions have ended.")


@customers.post("/account/sessions/{session_id}/end")
async def end_session(page: Customer) -> Response:
    session_id = uuid_in_path(page.visit, "session_id")
    await own_sessions.end_my_session(session_id, page.me)
    return page.visit.redirect("/account", "The session has ended.")


@customers.get("/account/delete")
async def show_deletion(page: Customer) -> Response:
    return page.visit.render("portal/account_delete.html", form=Form())


@customers.post("/account/delete")
async def submit_deletion(page: Customer) -> Response:
    form = page.visit.form

    async def call() -> bool:
        body = Deletion.model_validate({"password": form.raw("password")})
        await profile.delete_me(body, page.me, page.portal.account, page.visit.address)
        return True

    if await form.submit(call) is None:
        return page.visit.render("portal/account_delete.html", status=form.status, form=form)
    forget(page.visit)
    return page.visit.redirect("/sign-in", "Your account is deleted.")


async def _render(page: Customer, *, details: Form | None = None, password: Form | None = None) -> Response:
    user = await profile.get_me(page.me)
    sent = details or password
    return page.visit.render(
        "portal/account.html",
        status=sent.status if sent else 200,
        profile=user,
        details=details or Form(defaults={name: getattr(user, name) for name in _TEXTS}),
        password=password or Form(),
        sessions=(await own_sessions.list_my_sessions(PageQuery(limit=SESSIONS), page.me)).data,
    )
