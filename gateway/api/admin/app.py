"""The admin listener's application: the endpoints of every noun behind one guard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from gateway.api import answers, docs, openapi
from gateway.api.admin import (
    analyses,
    audit_log,
    credits,
    health,
    keys,
    permissions,
    plans,
    subscriptions,
    usage,
    users,
)
from gateway.api.admin.billing import BILLING
from gateway.api.admin.collaborators import Collaborators
from gateway.api.desk import Desk, Herald
from gateway.api.edge import Bounded, Guarded, Identified
from gateway.api.issuing import KeyIssuer
from gateway.api.till import Till
from gateway.ledger.session import Database

ACTOR = "admin"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
# Far above any body of this API, far below what would trouble the process.
MAX_BODY_BYTES = 1024 * 1024

_NOUNS = (users, keys, plans, permissions, subscriptions, credits, usage, analyses, audit_log)


def build_admin(
    *,
    database: Database,
    publish: Callable[[], Awaitable[None]],
    admin_token: str,
    key_prefix: str,
    peppers: Mapping[int, bytes],
    entropy: Callable[[int], bytes],
    metrics_text: Callable[[], bytes],
    readiness: Callable[[], Awaitable[Mapping[str, str]]],
    till: Till | None = None,
) -> ASGIApp:
    """The ASGI application.

    `publish` tells Redis all that has been committed; it is awaited after each change, before the answer. `entropy`
    gives so many random bytes. `metrics_text` is Prometheus text. `readiness` gives what is missing, name to reason.
    """
    app = FastAPI(
        title="Gateway admin API",
        version="1",
        description=openapi.ADMIN,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.collaborators = Collaborators(
        desk=Desk(database, Herald(publish), actor=ACTOR),
        issuer=KeyIssuer(key_prefix, peppers, entropy=entropy),
        metrics_text=metrics_text,
        readiness=readiness,
    )
    app.state.till = till or Till()
    app.include_router(health.router)
    app.include_router(docs.router)
    app.include_router(_admin_v1())
    answers.install(app)
    openapi.install(app, guard=openapi.ADMIN_GUARD)
    bounded = Bounded(app, max_bytes=MAX_BODY_BYTES)
    return Identified(Guarded(bounded, admin_token, open_paths=OPEN_PATHS))


def _admin_v1() -> APIRouter:
    router = APIRouter(prefix="/admin/v1", responses=openapi.GUARDED)
    for noun in (*_NOUNS, *BILLING):
        router.include_router(noun.router)
    return router
