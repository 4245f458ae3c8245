"""The console as an application: its menu, its pages, and what answers their failures."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from gateway.api.admin import AdminApi
from gateway.api.middleware import BodyLimitMiddleware, HostMiddleware, RequestIdMiddleware
from gateway.config.operation.console import Console as ConsoleSettings
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.web import formats
from gateway.web.branding import Branding, Link
from gateway.web.console import (
    account,
    actions,
    audit,
    exports,
    find,
    money,
    plans,
    sign_in,
    today,
    usage,
    why,
)
from gateway.web.console.in_process import ApiRefused
from gateway.web.console.operator import Console, OperatorNeeded, enter_operator, enter_stranger, forget
from gateway.web.console.selling import coupons, experiments
from gateway.web.pages import MAX_FORM_BYTES, build_site
from gateway.web.site import Site, Visit
from policies.billing.money import CreditValue

if TYPE_CHECKING:
    from gateway.web.console.single_sign_on.provider import OpenIdProvider

ROOT = "/console"
_CENT = Decimal("0.01")
MENU = (
    Link("Today", ""),
    Link("Find", "/find"),
    Link("Usage", "/usage"),
    Link("Plans", "/plans"),
    Link("Money", "/money"),
    Link("Why refused", "/why"),
    Link("Audit", "/audit"),
    Link("System", "/system"),
)
_PAGES: tuple[ModuleType, ...] = (
    *(today, find, account, actions, usage, exports, plans, coupons, experiments, money, why, audit, sign_in),
)


def build_console(
    admin: AdminApi,
    *,
    secret: str,
    settings: ConsoleSettings | None = None,
    provider: OpenIdProvider | None = None,
) -> ASGIApp:
    """The ASGI application. `secret` signs its cookies: another one ends all sessions."""
    site = Site(ROOT, name="console", secret=secret, branding=Branding(name="Gateway console"), menu=MENU)
    site.environment.filters |= {"round_money": round_money, "worth": partial(worth, admin.credit_value)}
    console = Console(site, admin, settings or ConsoleSettings(), provider)
    routes: list[BaseRoute] = list(sign_in.strangers.routes(site, partial(enter_stranger, console)))
    if provider is not None:
        from gateway.web.console.single_sign_on.pages import strangers  # Authlib is an extra

        routes += strangers.routes(site, partial(enter_stranger, console))
    for module in _PAGES:
        routes += module.pages.routes(site, partial(enter_operator, console))
    app = build_site(site, routes, {OperatorNeeded: _to_sign_in, ApiRefused: _show_refusal})
    return RequestIdMiddleware(HostMiddleware(BodyLimitMiddleware(app, max_body_bytes=_max_body_bytes), admin.hosts))


def round_money(amount: str | None) -> str:
    """Cents, of sums whose last digits say nothing; less than a cent shows that it is not nothing."""
    if amount is None:
        return formats.NOTHING
    exact = Decimal(amount)
    if 0 < abs(exact) < _CENT:
        return "< 0.01" if exact > 0 else "> -0.01"
    return f"{exact:,.2f}"


def worth(value: CreditValue | None, credits: int) -> str:
    """Of a balance, ` (1.23 USD)`; empty where credits are not shown as money."""
    return "" if value is None else f" ({formats.money(value.amount(credits), value.currency)})"


def _max_body_bytes(_path: str) -> int:
    return MAX_FORM_BYTES


async def _to_sign_in(visit: Visit, _: OperatorNeeded) -> Response:
    forget(visit)
    return visit.to_sign_in()


async def _show_refusal(visit: Visit, refused: ApiRefused) -> Response:
    """A page with what the API answered."""
    code = str(refused.problem.get("code", "internal_error"))
    title = PROBLEM_TYPES[code].title if code in PROBLEM_TYPES else "This did not work"
    context: dict[str, Any] = {"title": title, "detail": str(refused), "code": code}
    return visit.render("failure.html", status=refused.status, **context)
