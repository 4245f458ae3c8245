"""The account API, which customers use themselves, on reserved paths beside the proxied routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import cache
from types import ModuleType

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Scope

from gateway.api import error_responses, openapi, problem_pages
from gateway.api.account import alerts, keys, profile
from gateway.api.account.authentication import Authenticator, Session, has_credentials, is_open
from gateway.api.account.billing import checkout, coupons, plan_changes, plans, quote, statements, subscriptions, top_up
from gateway.api.account.dependencies import AccountDependencies, Lifetimes
from gateway.api.account.filters.attempts import AttemptFilter
from gateway.api.account.filters.bodies import BodyFilter, OneTimeTokenFilter
from gateway.api.account.filters.credentials import CredentialFilter
from gateway.api.account.filters.operations import OperationFilter, Operations
from gateway.api.account.filters.stored_responses import StoredResponseFilter, Version
from gateway.api.account.login import own_sessions, recovery, sessions
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.account.login.password_hashing import PasswordHasher
from gateway.api.account.login.throttling import Throttle
from gateway.api.account.records import history, ledger, limits, refusals, usage
from gateway.api.checkout import CheckoutService
from gateway.api.dry_run import DryRun
from gateway.api.idempotency.middleware import IdempotencyMiddleware
from gateway.api.key_factory import KeyFactory
from gateway.api.middleware import (
    AuthMiddleware,
    BodyLimitMiddleware,
    HeadMiddleware,
    RequestIdMiddleware,
)
from gateway.api.unit_of_work import ChangePublisher
from gateway.api.webhooks import inbox, signatures
from gateway.api.webhooks.signatures import SignatureFilter
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.ledger.db.session import Database
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.meter import Meter
from policies.billing.money import CreditValue
from policies.model import Route

# This process serves calls too: what anybody may make it parse is bounded to well below 20 ms.
MAX_LOGIN_BODY_BYTES = 16 * 1024
MAX_BODY_BYTES = 32 * 1024
# An event is parsed only after its signature is verified.
MAX_EVENT_BYTES = 1024 * 1024

# Paths of which each is known by name.
_PROBLEM_PATHS = (problem_pages.PREFIX, *(f"{problem_pages.PREFIX}/{code}" for code in PROBLEM_TYPES))
_SPELT_OUT = {f"{problem_pages.PREFIX}/{{code}}": _PROBLEM_PATHS[1:], "/webhooks/{provider}": tuple(signatures.PATHS)}

# The routers hold full paths, which begin with a segment that config/routes.py reserves.
ENDPOINTS: tuple[ModuleType, ...] = (
    sessions,
    recovery,
    profile,
    own_sessions,
    keys,
    usage,
    refusals,
    history,
    ledger,
    alerts,
    limits,
    quote,
    plans,
    subscriptions,
    plan_changes,
    checkout,
    coupons,
    top_up,
    statements,
    inbox,
)


def account_dependencies(
    *,
    database: Database,
    publish: Callable[[], Awaitable[None]],
    jwt_secret: str,
    lifetimes: Lifetimes,
    key_prefix: str,
    peppers: Mapping[int, bytes],
    entropy: Callable[[int], bytes],
    meter: Meter,
    routes: Mapping[str, Route],
    past_due_grace: timedelta,
    credit_value: CreditValue | None = None,
) -> AccountDependencies:
    """What the functions of the account API depend on, whether its endpoints or pages call them.

    `publish` publishes all committed changes to Redis; each change awaits it before the response. `entropy` gives so
    many random bytes. Each request reads `routes`, by name, as they are then. `credit_value` shows credits as money.
    """
    return AccountDependencies(
        database=database,
        publisher=ChangePublisher(publish),
        key_factory=KeyFactory(key_prefix, peppers, entropy=entropy),
        key_prefix=key_prefix,
        peppers=peppers,
        tokens=AccessTokens(jwt_secret, lifetime=lifetimes.access),
        hasher=PasswordHasher(),
        throttle=Throttle(database),
        entropy=entropy,
        lifetimes=lifetimes,
        meter=meter,
        dry_run=DryRun(database, meter, grace=past_due_grace, credit_value=credit_value),
        routes=routes,
        credit_value=credit_value,
        secret=jwt_secret,
    )


def build_account(dependencies: AccountDependencies, *, checkout_service: CheckoutService | None = None) -> ASGIApp:
    """The ASGI application."""
    app = openapi.application("Gateway account API", openapi.ACCOUNT, _operations())
    app.state.dependencies = dependencies
    app.state.checkout_service = checkout_service or CheckoutService()
    error_responses.install(app)
    openapi.install(app, guard=None)
    authenticator = Authenticator(
        dependencies.database,
        dependencies.tokens,
        key_prefix=dependencies.key_prefix,
        peppers=dependencies.peppers,
        secret=dependencies.secret,
        unit_of_work=dependencies.unit_of_work,
    )
    idempotent = IdempotencyMiddleware(
        app,
        dependencies.database,
        takes_key=_takes_key,
        peppers=dependencies.peppers,
        publish=dependencies.unit_of_work("system").publish,
        is_detached=_is_detached,
    )
    return _filtered(app, idempotent, authenticator, meter=dependencies.meter)


@cache
def _operations() -> APIRouter:
    operations = openapi.no_operations()
    operations.include_router(problem_pages.router)
    for module in ENDPOINTS:
        operations.include_router(module.router, responses=openapi.COMMON)
    return operations


def _takes_key(scope: Scope) -> bool:
    """Whether somebody is signed in, whose keys can be told from those of others."""
    return isinstance(scope["state"].get("caller"), Session)


def _is_detached(path: str) -> bool:
    """All but keys may ask a payment provider, which no transaction covers."""
    return not path.startswith("/me/keys")


def _filtered(app: FastAPI, idempotent: ASGIApp, authenticator: Authenticator, *, meter: Meter) -> ASGIApp:
    """Whatever can be answered is answered before the app is asked, the cheapest answers first."""
    operations = Operations(app, spelt_out=_SPELT_OUT)
    verified = SignatureFilter(idempotent, app.state.checkout_service)
    known = CredentialFilter(verified, app.state.dependencies)
    attempted = OneTimeTokenFilter(AttemptFilter(known), app.state.dependencies.secret)
    limited = BodyLimitMiddleware(BodyFilter(attempted), max_body_bytes=max_body_bytes)
    authenticated = AuthMiddleware(limited, authenticator.authenticate, is_open=is_open)
    stored = StoredResponseFilter(
        authenticated, _versions(meter), negotiated=frozenset(_PROBLEM_PATHS), is_personal=has_credentials
    )
    return RequestIdMiddleware(HeadMiddleware(OperationFilter(stored, operations)))


def _versions(meter: Meter) -> dict[str, Version]:
    """What everybody may read, with the versions of it."""

    async def of_catalogue() -> int | None:
        try:
            return await meter.catalogue_version()
        except MeterUnavailable:
            return None

    async def of_process() -> int:
        return 0

    return {"/plans": of_catalogue, **dict.fromkeys(("/openapi.json", "/docs", *_PROBLEM_PATHS), of_process)}


def max_body_bytes(path: str) -> int:
    if path.startswith("/auth/"):
        return MAX_LOGIN_BODY_BYTES
    return MAX_EVENT_BYTES if path.startswith("/webhooks/") else MAX_BODY_BYTES
