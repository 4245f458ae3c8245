"""Idempotency-Key of the APIs: the response to a POST is stored with its change, and replayed to a repeat.

The whole request runs in one transaction, opened here and joined by the unit of work. So the response is stored if and
only if the change was made; a request that fails changes nothing and leaves its key free. An effect on another system
cannot be rolled back: operations that have one are `detached`, and claim their key in a transaction of its own first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import error_responses
from gateway.api.error_responses import ErrorResponse
from gateway.api.idempotency.operations import KeyedOperation
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import RUNNING, Running, StoredResponse
from gateway.ledger.db.session import Database, DatabaseUnavailable
from policies.idempotency import MAX_KEY_CHARACTERS, parse_key

IsDetached = Callable[[str], bool]
TakesKey = Callable[[Scope], bool]


@dataclass(frozen=True, slots=True)
class _KeyedRequest:
    """A request under an Idempotency-Key, with its whole body."""

    scope: Scope
    body: bytes
    operation: KeyedOperation


class IdempotencyMiddleware:
    """Serves POSTs that carry the header where `takes_key`; every other request passes unchanged.

    `scope["state"]["caller"]` has a `name`, to which keys belong.
    """

    def __init__(
        self,
        app: ASGIApp,
        database: Database,
        *,
        takes_key: TakesKey,
        peppers: Mapping[int, bytes],
        publish: Callable[[], Awaitable[None]],
        is_detached: IsDetached,
    ) -> None:
        self._app = app
        self._database = database
        self._takes_key = takes_key
        self._peppers = peppers
        self._publish = publish
        self._is_detached = is_detached

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = [value for name, value in scope.get("headers", ()) if name == b"idempotency-key"]
        if not fields or scope.get("method") != "POST" or not self._takes_key(scope):
            await self._app(scope, receive, send)
            return
        key = parse_key(fields[0]) if len(fields) == 1 else None
        if key is None:
            refusal = error_responses.invalid(
                "Idempotency-Key", f"one of 1 to {MAX_KEY_CHARACTERS} visible ASCII characters"
            )
            await error_responses.send(refusal, scope, send)
            return
        try:
            body = await _read_body(receive)
            if body is None:
                return
            await self._serve(_KeyedRequest(scope, body, self._operation(scope, body, key)), send)
        except HTTPException:
            refusal = error_responses.TOO_LARGE
            await error_responses.send(refusal, scope, send)
        except DatabaseUnavailable:
            await error_responses.send(error_responses.UNREACHABLE, scope, send)

    def _operation(self, scope: Scope, body: bytes, key: bytes) -> KeyedOperation:
        target = scope["path"].encode() + b"?" + scope["query_string"]
        content = b"%d:%s%s" % (len(target), target, body)
        return KeyedOperation.of(scope["state"]["caller"].name, key=key, content=content, peppers=self._peppers)

    async def _serve(self, request: _KeyedRequest, send: Send) -> None:
        response = _BufferedResponse()
        run = self._run_detached if self._is_detached(request.scope["path"]) else self._run_in_transaction
        earlier = None
        try:
            earlier = await run(request, response)
        except DatabaseUnavailable:
            if response.is_success or not response.is_begun:
                raise  # the buffered response reports a change that was not committed
        except Exception:
            if not response.is_success:
                await response.send(send)
            raise
        await response.send(send)
        if earlier is RUNNING:
            detail = "A request with this Idempotency-Key is still running, or broke off."
            refusal = ErrorResponse("idempotency_in_progress", detail, {"retry_after": 1})
            await error_responses.send(refusal, request.scope, send)
        elif isinstance(earlier, StoredResponse):
            await self._replay(earlier, request, send)

    async def _run_in_transaction(
        self, request: _KeyedRequest, response: _BufferedResponse
    ) -> StoredResponse | Running | None:
        """The earlier response of the key, or None once the request ran."""
        async with self._database.transaction() as connection:
            earlier = await idempotency.claim(connection, request.operation.claim)
            if earlier is not None:
                return earlier
            await self._run(request, response, enclosing=connection)
            if response.is_success:
                await response.store(connection, request.operation)
            else:
                await connection.rollback()
        if response.is_success:
            await self._publish()
        return None

    async def _run_detached(
        self, request: _KeyedRequest, response: _BufferedResponse
    ) -> StoredResponse | Running | None:
        async with self._database.transaction() as connection:
            earlier = await idempotency.claim(connection, request.operation.claim)
        if earlier is not None:
            return earlier
        await self._run(request, response, enclosing=None)
        async with self._database.transaction() as connection:
            if response.is_success:
                await response.store(connection, request.operation)
            elif response.is_refusal:
                await idempotency.release(connection, request.operation.claim)
        return None

    async def _run(
        self, request: _KeyedRequest, response: _BufferedResponse, *, enclosing: AsyncConnection | None
    ) -> None:
        request.scope["state"] |= {"secrets": request.operation.secrets, "enclosing": enclosing}
        await self._app(request.scope, _receive_of(request.body), response.collect)

    async def _replay(self, stored: StoredResponse, request: _KeyedRequest, send: Send) -> None:
        body = request.operation.body_of(stored)
        if body is None:
            detail = "This Idempotency-Key was sent with another request; give each request a key of its own."
            await error_responses.send(ErrorResponse("idempotency_key_reused", detail), request.scope, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"idempotency-replayed", b"true")]
        if stored.media_type is not None:
            headers.append((b"content-type", stored.media_type.encode()))
        await send({"type": "http.response.start", "status": stored.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _BufferedResponse:
    """A response that is withheld until its change is committed."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def collect(self, message: Message) -> None:
        self._messages.append(message)

    async def send(self, send: Send) -> None:
        for message in self._messages:
            await send(message)

    async def store(self, connection: AsyncConnection, operation: KeyedOperation) -> None:
        await operation.store(connection, status_code=self.status, media_type=self.media_type, body=self.body)

    @property
    def is_begun(self) -> bool:
        return bool(self._messages)

    @property
    def status(self) -> int:
        return next((each["status"] for each in self._messages if each["type"] == "http.response.start"), 500)

    @property
    def is_success(self) -> bool:
        return self.status < 300

    @property
    def is_refusal(self) -> bool:
        return 400 <= self.status < 500

    @property
    def media_type(self) -> str | None:
        start = next(each for each in self._messages if each["type"] == "http.response.start")
        found = [value for name, value in start["headers"] if name == b"content-type"]
        return found[0].decode("latin-1") if found else None

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self._messages)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None where the client has left before it was, and what has come says something else."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _receive_of(body: bytes) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive
