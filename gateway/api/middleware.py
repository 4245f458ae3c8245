"""What every request passes before the API sees it: it is given an id, and held to a size."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

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
