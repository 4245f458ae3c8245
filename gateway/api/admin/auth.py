"""Authentication and authorization of the admin API: bearer tokens, and the scope that each operation needs."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import metrics
from gateway.api import error_responses
from gateway.api.admin.scopes import PREFIX, SCOPES, scope_of
from gateway.api.errors import NotAuthenticated, NotInScope
from gateway.api.guesses import Guesses
from gateway.api.middleware import is_operation
from gateway.clock import now
from gateway.ledger.accounts import admin_tokens, throttles
from gateway.ledger.accounts.admin_tokens import AdminToken
from gateway.ledger.db.session import Database
from policies.access import keys

ROOT = "admin"
# Admin tokens have the form of keys, under a prefix of their own.
TOKEN_PREFIX_SUFFIX = "adm"  # noqa: S105 - how tokens begin, not one
TOUCH_INTERVAL = timedelta(minutes=1)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller of the admin API, as the audit log names it, and what it may do.

    `token_id` None: by the token of the environment.
    """

    name: str
    scopes: frozenset[str]
    token_id: UUID | None = None

    def require(self, scope: str) -> None:
        """For what an operation needs beyond its own scope. Raises NotInScope."""
        if scope not in self.scopes:
            raise NotInScope(scope)


class AdminAuthenticator:
    """Finds the actor of a token. The token of the environment has every scope and needs no database."""

    def __init__(self, database: Database, root_token: str, *, key_prefix: str, peppers: Mapping[int, bytes]) -> None:
        if not root_token:
            raise ValueError("the admin token must not be empty: it would let everyone in")
        self._database = database
        self._root_token = root_token.encode()
        self._prefix = key_prefix + TOKEN_PREFIX_SUFFIX
        self._peppers = peppers
        self._guesses = Guesses()

    async def authenticate(self, request: Request) -> Actor:
        """Raises NotAuthenticated, Throttled, DatabaseUnavailable."""
        token = _bearer(request.scope)
        if token is None:
            raise NotAuthenticated("Send the admin token as `Authorization: Bearer ADMIN_TOKEN`.")
        return await self.sign_in(token, address=request.client.host if request.client else "")

    async def sign_in(self, token: bytes, *, address: str) -> Actor:
        """The actor of a token. Raises NotAuthenticated, Throttled, DatabaseUnavailable."""
        actor = await self._find_actor(token, address=address)
        if actor is None:
            metrics.FAILED_SIGN_INS.labels("admin_token").inc()
            _log.warning("sign_in_failed", kind="admin_token", address=address or None)
            raise NotAuthenticated("The admin token is not valid.")
        return actor

    async def find_signed_in(self, token_id: UUID | None) -> Actor | None:
        """Who signed in by the token of this id, or (None) by that of the environment; None once it is not usable.

        Raises DatabaseUnavailable.
        """
        if token_id is None:
            return Actor(ROOT, SCOPES)
        async with self._database.look_up() as connection:
            found = await admin_tokens.get(connection, token_id)
        return None if found is None or not found.is_usable(now()) else _actor_of(found)

    async def end_session(self, session_id: str, *, until: datetime) -> None:
        """Ends a session of the console, which would have lasted until then, for every copy of its cookie.

        Raises DatabaseUnavailable.
        """
        async with self._database.transaction() as connection:
            await throttles.hold(connection, _session_digest(session_id), until=until)

    async def has_ended(self, session_id: str) -> bool:
        """Raises DatabaseUnavailable."""
        async with self._database.look_up() as connection:
            return await throttles.is_held(connection, _session_digest(session_id))

    async def _find_actor(self, token: bytes, *, address: str) -> Actor | None:
        """None for a token that is unknown, revoked or expired."""
        # Constant in time, so that nobody finds the token byte by byte.
        if hmac.compare_digest(token, self._root_token):
            return Actor(ROOT, SCOPES)
        if not keys.is_well_formed(self._prefix, token):
            return None
        digests = list(keys.digests(token, self._peppers).values())
        found = await self._guesses.look_up(digests[0], address, lambda: self._find_token(digests))
        instant = now()
        if found is None or not found.is_usable(instant):
            return None
        if found.last_used_at is None or found.last_used_at < instant - TOUCH_INTERVAL:
            async with self._database.transaction() as connection:
                await admin_tokens.touch(connection, found.id)
        return _actor_of(found)

    async def _find_token(self, digests: list[bytes]) -> AdminToken | None:
        async with self._database.look_up() as connection:
            return await admin_tokens.find(connection, digests)


class ScopeMiddleware:
    """Refuses operations whose scope the actor lacks; a path without an operation gets 404 or 405 from the app."""

    def __init__(self, app: ASGIApp, routes: Callable[[], Collection[BaseRoute]]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        actor: Actor | None = scope.get("state", {}).get("caller")
        if actor is not None and scope["path"].startswith(PREFIX):
            needed = scope_of(scope["method"], scope["path"])
            if needed not in actor.scopes and is_operation(self._routes(), scope):
                await error_responses.send_failure(NotInScope(needed), scope, send)
                return
        await self._app(scope, receive, send)


def _session_digest(session_id: str) -> bytes:
    return sha256(f"console-session|{session_id}".encode()).digest()


def _actor_of(token: AdminToken) -> Actor:
    return Actor(f"{ROOT}:{token.name}", frozenset(token.scopes), token.id)


def _bearer(scope: Scope) -> bytes | None:
    fields = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = fields[0].partition(b" ") if len(fields) == 1 else (b"", b"", b"")
    return bytes(token.strip()) if scheme.lower() == b"bearer" else None
