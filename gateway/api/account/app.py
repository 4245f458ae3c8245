"""The account API: what customers do for themselves, on paths of its own beside the proxied routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import ModuleType

from fastapi import FastAPI
from starlette.types import ASGIApp

from gateway.api import docs, error_responses, openapi
from gateway.api.account import keys, me
from gateway.api.account.auth_middleware import Guarded
from gateway.api.account.billing import plans, quote, subscriptions
from gateway.api.account.billing.routers import BILLING
from gateway.api.account.dependencies import Collaborators, Lifetimes
from gateway.api.account.key_reader import KeyReader
from gateway.api.account.login import endpoints, recovery
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.account.login.password_hashing import Hasher
from gateway.api.account.login.throttling import Throttle
from gateway.api.account.records import history, ledger, limits, usage
from gateway.api.checkout import Till
from gateway.api.dry_run import Previewer
from gateway.api.key_factory import KeyIssuer
from gateway.api.middleware import Bounded, Identified
from gateway.api.unit_of_work import Herald
from gateway.ledger.db.session import Database
from gateway.meter.meter import Meter
from policies.model import Route

# Far above any body of this API and any event of a payment provider.
MAX_BODY_BYTES = 1024 * 1024

# Each module's `router` holds full paths. All must begin with a segment that config/reserved_paths.py reserves.
_NOUNS: tuple[ModuleType, ...] = (
    endpoints,
    recovery,
    me,
    keys,
    usage,
    history,
    ledger,
    limits,
    quote,
    plans,
    subscriptions,
)


def build_account(
    *,
    database: Database,
    publish: Callable[[], Awaitable[None]],
    jwt_secret: str,
    lifetimes: Lifetimes,
    key_prefix: str,
    peppers: Mapping[int, bytes],
    entropy: Callable[[int], bytes],
    till: Till | None = None,
    meter: Meter,
    routes: Mapping[str, Route],
    past_due_grace: timedelta,
) -> ASGIApp:
    """The ASGI application.

    `publish` tells Redis all that has been committed; it is awaited after each change, before the answer. `entropy`
    gives so many random bytes. `routes` by name are looked at as they are at each request.
    """
    app = FastAPI(
        title="Gateway account API",
        version="1",
        description=openapi.ACCOUNT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    held = app.state.collaborators = Collaborators(
        database=database,
        herald=Herald(publish),
        issuer=KeyIssuer(key_prefix, peppers, entropy=entropy),
        tokens=AccessTokens(jwt_secret, lifetime=lifetimes.access),
        hasher=Hasher(),
        throttle=Throttle(database),
        entropy=entropy,
        lifetimes=lifetimes,
        key_reader=KeyReader(database, key_prefix, peppers),
        previewer=Previewer(database, meter, grace=past_due_grace),
        routes=routes,
        secret=jwt_secret,
    )
    app.state.till = till or Till()
    app.include_router(docs.router)
    for noun in (*_NOUNS, *BILLING):
        app.include_router(noun.router, responses=openapi.COMMON)
    error_responses.install(app)
    openapi.install(app, guard=None)
    return Identified(Guarded(Bounded(app, max_bytes=MAX_BODY_BYTES), held, lambda: app.routes))
