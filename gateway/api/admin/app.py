"""The admin listener's application: the endpoints of every noun behind one guard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import error_responses, openapi, problem_pages
from gateway.api.admin import health
from gateway.api.admin.accounts import (
    admin_tokens,
    credits,
    key_imports,
    key_verification,
    keys,
    portal_sessions,
    users,
)
from gateway.api.admin.auth import ROOT, TOKEN_PREFIX_SUFFIX, AdminAuthenticator, ScopeMiddleware
from gateway.api.admin.billing import invoices, payments, refunds, replays, subscriptions, webhook_events
from gateway.api.admin.catalogue import coupons, experiments, permissions, plans, prices, products
from gateway.api.admin.dependencies import AdminDependencies, Reconcile
from gateway.api.admin.records import (
    analyses,
    audit_log,
    daily_usage,
    imports,
    overview,
    poison,
    reconcile,
    reconcile_runs,
    refusals,
    reports,
    search,
    system,
    usage,
    usage_exports,
)
from gateway.api.admin.scopes import PREFIX, scope_of
from gateway.api.checkout import CheckoutService
from gateway.api.dry_run import DryRun
from gateway.api.idempotency.middleware import IdempotencyMiddleware
from gateway.api.key_factory import KeyFactory
from gateway.api.middleware import (
    AuthMiddleware,
    BodyLimitMiddleware,
    HeadMiddleware,
    HostMiddleware,
    RequestIdMiddleware,
)
from gateway.api.unit_of_work import ChangePublisher, UnitOfWork
from gateway.ledger.db.session import Database
from gateway.meter.meter import Meter
from policies.billing.money import CreditValue
from policies.model import Route

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", problem_pages.PREFIX})
# Far above any body of this API, far below what a process can spare.
MAX_BODY_BYTES = 128 * 1024
MAX_IMPORT_BYTES = 1024 * 1024

GUARD = openapi.Guard("/admin/", "admin_token", "An admin token; its scopes are listed as roles.", scope_of)

# Operations on these affect payment providers or all accounts, which no single transaction covers.
_DETACHED = frozenset({"payments", "invoices", "refunds", "webhook-events", "reconcile", "usage"})
# The provider that bills a subscription is asked for these first.
_CHANGES_AT_PROVIDER = frozenset({"change", "cancel", "undo-cancel"})

# Those come first whose paths others would match as ids: `key_imports` before `keys`, `daily_usage` before `usage`.
ENDPOINTS = (
    users,
    portal_sessions,
    key_verification,
    key_imports,
    keys,
    plans,
    experiments,
    permissions,
    prices,
    products,
    coupons,
    subscriptions,
    credits,
    usage_exports,
    daily_usage,
    usage,
    refusals,
    reports,
    analyses,
    audit_log,
    reconcile,
    reconcile_runs,
    admin_tokens,
    payments,
    refunds,
    invoices,
    replays,
    webhook_events,
    search,
    overview,
    system,
    imports,
    poison,
)


def build_admin(
    *,
    database: Database,
    publish: Callable[[], Awaitable[None]],
    admin_token: str,
    key_prefix: str,
    peppers: Mapping[int, bytes],
    entropy: Callable[[int], bytes],
    meter: Meter,
    routes: Mapping[str, Route],
    targets: Mapping[str, Sequence[str]],
    past_due_grace: timedelta,
    reconcile_books: Reconcile,
    metrics_text: Callable[[], Awaitable[bytes]],
    readiness: Callable[[], Awaitable[Mapping[str, str]]],
    checkout_service: CheckoutService | None = None,
    credit_value: CreditValue | None = None,
    hosts: Iterable[str] = (),
    portal_url: str | None = None,
    return_origins: tuple[str, ...] = (),
    export_dir: Path,
) -> AdminApi:
    """The ASGI application.

    `publish` publishes all committed changes to Redis; each change awaits it before the response. `entropy` gives so
    many random bytes. `past_due_grace` and `routes` are those of the proxy, `targets` the origins of each upstream; the
    last two are read at each request. `metrics_text` gives Prometheus text, `readiness` what is missing, name to
    reason. `credit_value` shows what a call costs as money. The listener goes by the names `hosts`. Sessions of the
    portal at `portal_url` lead back to `return_origins`, or anywhere where there are none. Exports are files in
    `export_dir`.
    """
    app = openapi.application("Gateway admin API", openapi.ADMIN, _operations())
    unit_of_work = UnitOfWork(database, ChangePublisher(publish), actor=ROOT)
    app.state.dependencies = AdminDependencies(
        unit_of_work=unit_of_work,
        key_factory=KeyFactory(key_prefix, peppers, entropy=entropy),
        token_factory=KeyFactory(key_prefix + TOKEN_PREFIX_SUFFIX, peppers, entropy=entropy),
        dry_run=DryRun(database, meter, grace=past_due_grace, credit_value=credit_value),
        routes=routes,
        targets=targets,
        key_prefix=key_prefix,
        peppers=peppers,
        reconcile=reconcile_books,
        metrics_text=metrics_text,
        readiness=readiness,
        credit_value=credit_value,
        portal_url=portal_url,
        return_origins=return_origins,
    )
    app.state.reconcile_runs = reconcile_runs.runs_of_process()
    app.state.usage_exports = usage_exports.UsageExports(export_dir)
    app.state.replay_runs = replays.runs_of_process()
    app.state.checkout_service = checkout_service or CheckoutService()
    error_responses.install(app)
    openapi.install(app, guard=GUARD)
    idempotent = IdempotencyMiddleware(
        app, database, takes_key=_takes_key, peppers=peppers, publish=unit_of_work.publish, is_detached=_is_detached
    )
    authenticator = AdminAuthenticator(database, admin_token, key_prefix=key_prefix, peppers=peppers)
    return AdminApi(idempotent, authenticator, lambda: app.routes, hosts=hosts, credit_value=credit_value)


class AdminApi:
    """Whoever asks is checked by host, token, scope and size of the body, in this order.

    `scoped` is the application behind the token: for callers of this process that have found the actor themselves.
    `credit_value` is what they show credits as, where they are shown as money.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: AdminAuthenticator,
        routes: Callable[[], Collection[BaseRoute]],
        *,
        hosts: Iterable[str],
        credit_value: CreditValue | None,
    ) -> None:
        self.authenticator = authenticator
        self.credit_value = credit_value
        self.hosts = tuple(hosts)
        self.scoped: ASGIApp = ScopeMiddleware(BodyLimitMiddleware(app, max_body_bytes=_max_body_bytes), routes)
        authenticated = AuthMiddleware(self.scoped, authenticator.authenticate, is_open=_is_open)
        self._app = RequestIdMiddleware(HostMiddleware(HeadMiddleware(authenticated), self.hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    return path in OPEN_PATHS or path.startswith(problem_pages.PREFIX + "/")


def _max_body_bytes(path: str) -> int:
    return MAX_IMPORT_BYTES if path == f"{PREFIX}keys/import" else MAX_BODY_BYTES


def _takes_key(scope: Scope) -> bool:
    return bool(scope["path"].startswith(PREFIX))


def _is_detached(path: str) -> bool:
    noun, _, operation = path.removeprefix(PREFIX).partition("/")
    return noun in _DETACHED or (noun == "subscriptions" and operation.rpartition("/")[2] in _CHANGES_AT_PROVIDER)


@cache
def _operations() -> APIRouter:
    below_prefix = APIRouter(prefix="/admin/v1", responses=openapi.GUARDED | openapi.SCOPED)
    for module in ENDPOINTS:
        below_prefix.include_router(module.router)
    operations = openapi.no_operations()
    for router in (health.router, problem_pages.router, below_prefix):
        operations.include_router(router)
    return operations
