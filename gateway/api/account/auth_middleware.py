"""Who is asking is found out before anything of a request is read, wherever an operation is not for everyone."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import error_responses
from gateway.api.account.callers import caller_of
from gateway.api.account.dependencies import Collaborators
from gateway.api.errors import NotAuthenticated, Suspended
from gateway.ledger.db.session import DatabaseUnavailable
from policies.model import Refused

# Here a request says by its body who is asking, or nobody need be known.
OPEN_PATHS = frozenset({"/plans", "/openapi.json", "/docs"})
OPEN_ROOMS = ("/auth/", "/webhooks/")


class Guarded:
    """Lets nobody in but those who are signed in, or hold a key where that will do.

    What is no operation at all goes on to be answered as such: which there are, anyone may read.
    """

    def __init__(self, app: ASGIApp, held: Collaborators, routes: Callable[[], Collection[BaseRoute]]) -> None:
        self._app = app
        self._held = held
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]) and self._is_operation(scope):
            request = Request(scope)
            try:
                scope["state"]["caller"] = await caller_of(request, self._held)
            except (NotAuthenticated, Suspended, Refused, DatabaseUnavailable) as error:
                await error_responses.refusal(error, request)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_operation(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._routes())


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_ROOMS)
