"""To the provider, and back from it."""

from __future__ import annotations

import hmac
from datetime import timedelta
from secrets import token_urlsafe
from typing import Any

from starlette.responses import RedirectResponse, Response

from gateway import metrics
from gateway.web.console.operator import Outsider, begin_as, end_former
from gateway.web.console.single_sign_on import Identity, SignInFailed
from gateway.web.console.single_sign_on.provider import SOURCE, Attempt, OpenIdProvider
from gateway.web.pages import PageRoutes
from gateway.web.site import Visit

_COOKIE, _AUDIENCE = "console_oidc", "console:oidc"
_LIFETIME = timedelta(minutes=10)
_MAX_CHARACTERS = 4096

strangers: PageRoutes[Outsider] = PageRoutes()


@strangers.get("/oidc")
async def ask_provider(page: Outsider) -> Response:
    """`again` has the provider ask who it is, whatever it remembers."""
    visit, params = page.visit, page.visit.request.query_params
    attempt = Attempt.new(is_fresh=bool(params.get("again")))
    try:
        url = await _provider(page).authorization_url(attempt)
    except SignInFailed as failed:
        return _refuse(page, failed)
    claims = {name: getattr(attempt, name) for name in Attempt.__slots__} | {"next": params.get("next", "")}
    visit.cookies.set(_COOKIE, visit.site.signer.sign(_AUDIENCE, claims, lifetime=_LIFETIME), max_age=_LIFETIME)
    response = RedirectResponse(url, 303, headers={"referrer-policy": "no-referrer"})
    visit.cookies.apply(response)
    return response


@strangers.get("/oidc/callback", is_good_once=True)
async def return_from_provider(page: Outsider) -> Response:
    visit, params = page.visit, page.visit.request.query_params
    kept = visit.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    visit.cookies.delete(_COOKIE)
    try:
        identity = await _redeem(page, params, kept)
        actor = identity.actor(page.console.settings)
        if not actor.scopes:
            raise SignInFailed(f"{identity.name} is in no group that may use the console.")
    except SignInFailed as failed:
        metrics.FAILED_SIGN_INS.labels(SOURCE).inc()
        return _refuse(page, failed)
    await end_former(visit, page.console)
    begin_as(visit, page.console, identity, session_id=token_urlsafe(12))
    return visit.redirect(visit.local(kept["next"] if kept else ""))


async def _redeem(page: Outsider, params: Any, kept: dict[str, Any] | None) -> Identity:
    """Raises SignInFailed."""
    provider, state, code = _provider(page), params.get("state", ""), params.get("code", "")
    if kept is None or not hmac.compare_digest(state.encode(), kept["state"].encode()):
        raise SignInFailed("This sign-in was not begun in this browser, or too long ago; begin again.")
    if "error" in params:
        raise SignInFailed(f"The provider refused the sign-in: {params['error'][:100]}.")
    # RFC 9207: another provider's answer must not be taken to this one.
    if "iss" in params and params["iss"].rstrip("/") != provider.issuer:
        raise SignInFailed("Another provider has answered than was asked.")
    if not code or len(code) > _MAX_CHARACTERS:
        raise SignInFailed("The provider gave no code.")
    attempt = Attempt(kept["state"], kept["nonce"], kept["verifier"], kept["is_fresh"])
    return await provider.redeem(code, attempt)


def _provider(page: Outsider) -> OpenIdProvider:
    """Raises SignInFailed where none is set up."""
    if page.console.provider is None:
        raise SignInFailed("No provider is set up here: sign in with an admin token.")
    return page.console.provider


def _refuse(page: Outsider, failed: SignInFailed) -> Response:
    visit: Visit = page.visit
    visit.form.message = str(failed)
    return visit.render("console/sign_in.html", status=403, form=visit.form, next="")
