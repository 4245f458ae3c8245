"""Who calls the admin API and what they may do: decided before a body is read, by the table of scopes."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.admin.scopes import PREFIX, SCOPES, scope_of
from gateway.clock import now
from gateway.http.problems import problem
from gateway.ledger.accounts import admin_tokens
from gateway.ledger.db.session import Database, DatabaseUnavailable
from policies.access import keys

ROOT = "admin"
# The form of admin tokens is that of keys, under a prefix of their own.
TOKEN_PREFIX_SUFFIX = "adm"  # noqa: S105 - how tokens begin, not one
TOUCH_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is asking, as the audit log names them, and what they may do."""

    name: str
    scopes: frozenset[str]


class Tokens:
    """Finds out whose a token is. That of the environment may do everything and needs no database."""

    def __init__(self, database: Database, root: str, *, key_prefix: str, peppers: Mapping[int, bytes]) -> None:
        if not root:
            raise ValueError("the admin token must not be empty: it would let everyone in")
        self._database = database
        self._root = root.encode()
        self._prefix = key_prefix + TOKEN_PREFIX_SUFFIX
        self._peppers = peppers

    async def actor(self, token: bytes) -> Actor | None:
        """None for a token that is unknown, revoked or expired. Raises DatabaseUnavailable."""
        # Constant in time, so that nobody finds the token byte by byte.
        if hmac.compare_digest(token, self._root):
            return Actor(ROOT, SCOPES)
        if not keys.is_well_formed(self._prefix, token):
            return None
        digests = list(keys.digests(token, self._peppers).values())
        async with self._database.read() as connection:
            found = await admin_tokens.find(connection, digests)
        instant = now()
        if found is None or not found.is_usable(instant):
            return None
        if found.last_used_at is None or found.last_used_at < instant - TOUCH_EVERY:
            async with self._database.transaction() as connection:
                await admin_tokens.touch(connection, found.id)
        return Actor(f"{ROOT}:{found.name}", frozenset(found.scopes))


class Guarded:
    """Lets nobody in without a bearer token, but to the paths that are open. Nothing is parsed before that."""

    def __init__(self, app: ASGIApp, tokens: Tokens, *, open_paths: Collection[str]) -> None:
        self._app = app
        self._tokens = tokens
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        token = _bearer(scope)
        if token is None:
            await _refuse("unauthorized", "Send the admin token as `Authorization: Bearer ADMIN_TOKEN`.", scope, send)
            return
        try:
            actor = await self._tokens.actor(token)
        except DatabaseUnavailable:
            detail = "Admin tokens cannot be checked at the moment; try again shortly."
            await _refuse("accounts_unavailable", detail, scope, send, extras={"retry_after": 1})
            return
        if actor is None:
            await _refuse("unauthorized", "The admin token is not valid.", scope, send)
            return
        scope["state"]["actor"] = actor
        await self._app(scope, receive, send)


class Scoped:
    """Refuses operations whose scope the actor lacks; paths that lead nowhere are answered as such."""

    def __init__(self, app: ASGIApp, routes: Callable[[], Collection[BaseRoute]]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        actor: Actor | None = scope.get("state", {}).get("actor")
        if actor is not None and scope["path"].startswith(PREFIX):
            needed = scope_of(scope["method"], scope["path"])
            if needed not in actor.scopes and self._is_operation(scope):
                detail = f"This needs an admin token with the scope {needed!r}."
                await _refuse("insufficient_scope", detail, scope, send, extras={"scope": needed})
                return
        await self._app(scope, receive, send)

    def _is_operation(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._routes())


def _bearer(scope: Scope) -> bytes | None:
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
    return bytes(token.strip()) if scheme.lower() == b"bearer" else None


async def _refuse(
    code: str, detail: str, scope: Scope, send: Send, *, extras: Mapping[str, object] | None = None
) -> None:
    found = problem(code, detail, request_id=scope["state"]["request_id"], extras=extras or {})
    await send({"type": "http.response.start", "status": found.status, "headers": list(found.headers)})
    await send({"type": "http.response.body", "body": found.body})
