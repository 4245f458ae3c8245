"""The portal as an application: its pages behind the filters that the account API has too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from types import ModuleType

import httpx
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.account.dependencies import AccountDependencies
from gateway.api.account.filters.attempts import AttemptFilter
from gateway.api.checkout import CheckoutService
from gateway.api.middleware import BodyLimitMiddleware, RequestIdMiddleware
from gateway.config.operation.portal import LOGO_TYPES
from gateway.config.operation.portal import Portal as PortalSettings
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.web.branding import Branding, Link
from gateway.web.cookies import Cookies
from gateway.web.pages import MAX_FORM_BYTES, build_site
from gateway.web.portal import alerts, billing, first_call, home, keys, plan, profile, sign_in, top_up, usage
from gateway.web.portal.customer import Portal, SignInNeeded, enter_customer, enter_leaver, enter_stranger
from gateway.web.site import Site, Visit

ROOT = "/portal"
COOKIE_PREFIX = "gateway_portal"  # `forwardable.py` keeps such cookies from upstreams, which share the origin
MENU = (
    Link("Home", ""),
    Link("API keys", "/keys"),
    Link("Usage", "/usage"),
    Link("Plan and credits", "/plan"),
    Link("Billing", "/billing"),
    Link("Alerts", "/alerts"),
    Link("First call", "/first-call"),
    Link("Account", "/account"),
)
CUSTOMER_PAGES: tuple[ModuleType, ...] = (home, keys, usage, plan, top_up, billing, alerts, first_call, profile)


def build_portal(
    account: AccountDependencies,
    *,
    checkout_service: CheckoutService,
    settings: PortalSettings,
    client: httpx.AsyncClient,
    recent_sign_in: timedelta,
) -> ASGIApp:
    """The ASGI application; see `Portal` for what the arguments are."""
    site = Site(ROOT, name=COOKIE_PREFIX, secret=account.secret, branding=branding_of(settings), menu=MENU)
    portal = Portal(
        site=site,
        account=account,
        checkout_service=checkout_service,
        settings=settings,
        client=client,
        recent_sign_in=recent_sign_in,
    )
    routes: list[BaseRoute] = list(sign_in.strangers.routes(site, partial(enter_stranger, portal)))
    routes += sign_in.leavers.routes(site, partial(enter_leaver, portal))
    for module in CUSTOMER_PAGES:
        routes += module.customers.routes(site, partial(enter_customer, portal))
    app = build_site(site, routes, {SignInNeeded: _to_sign_in})
    limited = BodyLimitMiddleware(app, max_body_bytes=lambda _: MAX_FORM_BYTES)
    return RequestIdMiddleware(AttemptFilter(limited, is_attempt=_is_attempt, refuse=partial(_refuse_attempt, site)))


async def _refuse_attempt(site: Site, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    visit = Visit(site, request, Cookies(request))
    detail = "Too many attempts came from here. Wait a few seconds, go back, and try again."
    context = {"title": PROBLEM_TYPES["rate_limited"].title, "detail": detail, "code": "rate_limited"}
    response = visit.render("failure.html", status=429, **context)
    response.headers["retry-after"] = "1"
    await response(scope, receive, send)


def branding_of(settings: PortalSettings) -> Branding:
    logo = settings.logo
    texts: Mapping[str, str | None] = {"welcome": settings.welcome, "footer": settings.footer}
    return Branding(
        name=settings.name,
        logo=None if logo is None else (logo.read_bytes(), LOGO_TYPES[logo.suffix.lower()]),
        accent=settings.accent,
        links=tuple(Link(link.label, link.url) for link in settings.links),
        texts={name: text for name, text in texts.items() if text},
    )


def _is_attempt(scope: Scope) -> bool:
    path = scope["path"].removeprefix(ROOT)
    return path == "/enter" or (scope["method"] == "POST" and path in sign_in.ATTEMPTS)


async def _to_sign_in(visit: Visit, _: SignInNeeded) -> object:
    return visit.to_sign_in()
