"""API keys of a customer: make, change, replace, revoke. A new key is shown once, by the response that made it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.api.account import keys
from gateway.api.account.keys import OwnKeyQuery
from gateway.api.schemas.api_keys import IssuedKey, Key, KeyPatch, NewKeyTerms, Rotation
from gateway.web.forms import Form, end_of_day, in_address
from gateway.web.pages import PageRoutes, uuid_in_path
from gateway.web.portal.customer import Customer
from gateway.web.portal.first_call import examples, first_route
from gateway.web.portal.once import once

ROWS = 25
# Of the API, by what they are made of.
_FIELDS = {"expires_at": "expires_on"}
# How long an old key goes on working: a grace and how it is called.
GRACES = (("0", "Stops at once"), ("3600", "1 hour"), ("86400", "1 day"), ("604800", "7 days"))

_EDITED = ("name", "credit_cap", "allowed_ips", "permissions", "expires_on", "is_disabled")

customers: PageRoutes[Customer] = PageRoutes()


@customers.get("/keys")
async def list_keys(page: Customer) -> Response:
    """Those that are revoked have a page of their own: each test call leaves one."""
    params = page.visit.request.query_params
    is_revoked = bool(params.get("revoked"))
    query = in_address(OwnKeyQuery, {"limit": ROWS, "cursor": params.get("cursor"), "revoked": is_revoked})
    return page.visit.render("portal/keys.html", keys=await keys.list_keys(query, page.me), is_revoked=is_revoked)


@customers.get("/keys/new")
async def show_new_key(page: Customer) -> Response:
    return page.visit.render("portal/key_new.html", form=page.visit.form)


@customers.post("/keys/new")
@once()
async def submit_new_key(page: Customer) -> Response:
    form = page.visit.form

    async def call() -> IssuedKey:
        terms = {**_terms(form), "name": form.text("name") or "default"}
        return await keys.create_key(NewKeyTerms.model_validate(terms), page.me, page.portal.account.key_factory)

    made = await form.submit(call)
    if made is None:
        form.blame(_FIELDS)
        return page.visit.render("portal/key_new.html", status=form.status, form=form)
    return _show_secret(page, made)


@customers.get("/keys/{key_id}")
async def show_key(page: Customer) -> Response:
    found = await _key(page)
    return _key_page(page, found, _form_of(found))


@customers.post("/keys/{key_id}")
async def submit_key(page: Customer) -> Response:
    form, key_id = page.visit.form, uuid_in_path(page.visit, "key_id")

    async def call() -> Key:
        patch = KeyPatch.model_validate({"name": form.required("name"), **_changes(form, await _key(page))})
        return await keys.change_key(key_id, patch, page.me)

    changed = await form.submit(call)
    if changed is None:
        form.blame(_FIELDS)
        return _key_page(page, await _key(page), form)
    return page.visit.redirect("/keys", f"The key {changed.name} is changed.")


@customers.get("/keys/{key_id}/rotate")
async def show_rotation(page: Customer) -> Response:
    form = Form(defaults={"grace_seconds": "86400"})
    return page.visit.render("portal/key_rotate.html", key=await _key(page), form=form, graces=GRACES)


@customers.post("/keys/{key_id}/rotate")
@once()
async def submit_rotation(page: Customer) -> Response:
    form, key_id = page.visit.form, uuid_in_path(page.visit, "key_id")

    async def call() -> IssuedKey | None:
        body = Rotation.model_validate({"grace_seconds": form.whole("grace_seconds") or 0})
        if body.grace_seconds == 0 and not await page.prove(form):
            return None
        return await keys.rotate_key(key_id, page.me, page.portal.account.key_factory, body)

    made = await form.submit(call)
    if made is None:
        context: dict[str, Any] = {"key": await _key(page), "form": form, "graces": GRACES}
        return page.visit.render("portal/key_rotate.html", status=form.status, **context)
    return _show_secret(page, made)


@customers.get("/keys/{key_id}/revoke")
async def show_revocation(page: Customer) -> Response:
    return page.visit.render("portal/key_revoke.html", key=await _key(page), form=page.visit.form)


@customers.post("/keys/{key_id}/revoke")
async def submit_revocation(page: Customer) -> Response:
    form, key_id = page.visit.form, uuid_in_path(page.visit, "key_id")

    async def call() -> Key | None:
        return await keys.revoke_key(key_id, page.me) if await page.prove(form) else None

    revoked = await form.submit(call)
    if revoked is None:
        return page.visit.render("portal/key_revoke.html", status=form.status, key=await _key(page), form=form)
    return page.visit.redirect("/keys", f"The key {revoked.name} is revoked, for good.")


def _key_page(page: Customer, key: Key, form: Form) -> Response:
    shown = _before(form, key)
    was = {name: shown.shown(name) for name in _EDITED}
    return page.visit.render("portal/key.html", status=form.status, key=key, form=form, was=was)


async def _key(page: Customer) -> Key:
    return await keys.get_key(uuid_in_path(page.visit, "key_id"), page.me)


def _terms(form: Form) -> dict[str, Any]:
    expires_on = form.text("expires_on")
    return {
        "credit_cap": form.whole("credit_cap"),
        "allowed_ips": form.listed("allowed_ips"),
        "permissions": form.listed("permissions") or None,
        "expires_at": None if expires_on is None else end_of_day(expires_on),
    }


def _form_of(key: Key) -> Form:
    return Form(
        defaults={
            "name": key.name,
            "credit_cap": key.credit_cap,
            "allowed_ips": "\n".join(key.allowed_ips),
            "permissions": " ".join(key.permissions or ()),
            "expires_on": key.expires_at and key.expires_at.date(),
            "is_disabled": "1" if key.status == "disabled" else "",
        }
    )


def _before(form: Form, key: Key) -> Form:
    """The key as the page showed it; of a form that does not say so, as it is."""
    if form.text("was_name") is None:
        return _form_of(key)
    return Form(defaults={name: form.raw(f"was_{name}") for name in _EDITED})


def _changes(form: Form, key: Key) -> dict[str, Any]:
    """What was edited. A field says less than the key has: a day for an instant, nothing for no permission at all."""
    shown = _before(form, key)
    changes = {name: term for name, term in _terms(form).items() if _words(form, name) != _words(shown, name)}
    if form.is_checked("is_disabled") != shown.is_checked("is_disabled"):
        changes["status"] = "disabled" if form.is_checked("is_disabled") else "active"
    return changes


def _words(form: Form, name: str) -> list[str]:
    return form.shown(_FIELDS.get(name, name)).replace(",", " ").split()


def _show_secret(page: Customer, made: IssuedKey) -> Response:
    """Not after a redirect, which would have to keep the key somewhere."""
    route = first_route(page.portal)
    shown = None if route is None else examples(page, route, made.key)
    return page.visit.render("portal/key_made.html", status=201, made=made, examples=shown)
