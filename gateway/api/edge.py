"""What every request passes before the API sees it: it is given an id, asked for the token, and held to a size."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from gateway.problems import problem
from gateway.request_ids import is_echoable, uuid7

# A new key stands in an answer, and personal data in many: no cache on the way may keep one (RFC 9111 section 5.2.2.5).
_NOT_KEPT = (b"cache-control", b"no-store")


class Identified:
    """Gives each request an id, the client's own where it may be echoed; each answer says it, and is kept nowhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = sent[0].decode("ascii") if len(sent) == 1 and is_echoable(sent[0]) else uuid7()
        scope.setdefault("state", {})["request_id"] = request_id
        # Not unbound at the end: the server, which logs what was raised, runs in the same task, and it ends with this.
        bind_contextvars(request_id=request_id)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [header for header in message.get("headers", ()) if header[0] != b"cache-control"]
                message["headers"] = [*given, (b"x-request-id", request_id.encode()), _NOT_KEPT]
            await send(message)

        await self._app(scope, receive, stamped)


class Guarded:
    """Lets nobody in without the bearer token, but to the paths that are open. Nothing is parsed before that."""

    def __init__(self, app: ASGIApp, token: str, *, open_paths: Collection[str]) -> None:
        if not token:
            raise ValueError("the admin token must not be empty: it would let everyone in")
        self._app = app
        self._token = token.encode()
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            complaint = self._complaint(scope)
            if complaint is not None:
                await _unauthorized(complaint, scope, send)
                return
        await self._app(scope, receive, send)

    def _complaint(self, scope: Scope) -> str | None:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            return "Send the admin token as `Authorization: Bearer ADMIN_TOKEN`."
        # Constant in time, so that nobody finds the token byte by byte.
        return None if hmac.compare_digest(token.strip(), self._token) else "The admin token is not valid."


class Bounded:
    """Breaks off a body that is longer than `max_bytes`, whatever its Content-Length says; the API answers 413."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)


async def _unauthorized(detail: str, scope: Scope, send: Send) -> None:
    found = problem("unauthorized", detail, request_id=scope["state"]["request_id"])
    await send({"type": "http.response.start", "status": found.status, "headers": list(found.headers)})
    await send({"type": "http.response.body", "body": found.body})
