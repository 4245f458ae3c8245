"""The account API: what customers do for themselves, on paths of its own beside the proxied routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import ModuleType

from fastapi import FastAPI
from starlette.types import ASGIApp

from gateway.api import answers, docs, openapi
from gateway.api.account import auth, history, keys, ledger, limits, me, plans, quote, recovery, subscriptions, usage
from gateway.api.account.billing import BILLING
from gateway.api.account.collaborators import Collaborators, Lifetimes
from gateway.api.account.guarding import Guarded
from gateway.api.account.hashing import Hasher
from gateway.api.account.key_reader import KeyReader
from gateway.api.account.throttling import Throttle
from gateway.api.account.tokens import AccessTokens
from gateway.api.desk import Herald
from gateway.api.edge import Bounded, Identified
from gateway.api.issuing import KeyIssuer
from gateway.api.preview import Previewer
from gateway.api.till import Till
from gateway.ledger.session import Database
from gateway.meter.meter import Meter
from policies.model import Route

# Far above any body of this API and any event of a payment provider.
MAX_BODY_BYTES = 1024 * 1024

# Each module's `router` holds full paths. All must begin with a segment that gateway/config/local.py keeps for us.
_NOUNS: tuple[ModuleType, ...] = (auth, recovery, me, keys, usage, history, ledger, limits, quote, plans, subscriptions)


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
    answers.install(app)
    openapi.install(app, guard=None)
    return Identified(Guarded(Bounded(app, max_bytes=MAX_BODY_BYTES), held, lambda: app.routes))
