"""Idempotency-Key: the answer to a POST is kept in the transaction of its change, and told again to whoever repeats it.

The whole request runs in one transaction, opened here and joined by the desk. So the answer is kept if and only if the
change was made; a request that fails, by whatever status, changes nothing and leaves its key free. What a request sends
to others cannot be undone: operations that do so are `detached`, their key is taken first, in a transaction of its own.

Secrets in an answer are not kept. They are derived from a nonce of the request and the key that the client sent, under
a pepper, and so come out the same when the client sends that key again (`Drawn`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from secrets import token_bytes

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import error_responses
from gateway.http.problems import problem
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import RUNNING, Claim, Kept
from gateway.ledger.db.session import Database, DatabaseUnavailable
from policies.access.keys import compose

MAX_KEY_BYTES = 255
NONCE_BYTES = 16
_PURPOSE = b"gateway idempotent secrets"
# A String of RFC 9651 as the draft has it, or the same without quotes as Stripe's clients send it.
_KEY = re.compile(rb'"([\x20\x21\x23-\x5B\x5D-\x7E]+)"|([\x21\x23-\x7E]+)')
_MARK = re.compile(rb"(\d+):(\d+):(\w+)")

IsDetached = Callable[[str], bool]


class Drawn:
    """The secrets of one answer, made instead of random ones, and put back into it when it is told again."""

    def __init__(self, peppers: Mapping[int, bytes], *, nonce: bytes, key: bytes) -> None:
        self._peppers = peppers
        self._nonce = nonce
        self._key = key
        self._made: list[tuple[bytes, bytes]] = []

    def issue(self, prefix: str) -> str:
        """The next secret of the form of a key."""
        number, version = len(self._made), max(self._peppers)
        secret = self._secret(prefix, number, version=version)
        mark = b"%s:%d:%d:%s" % (self._nonce.hex().encode(), number, version, prefix.encode())
        self._made.append((secret.encode(), mark))
        return secret

    def taken_out(self, body: bytes) -> bytes:
        """The answer with a mark where each secret stood; the nonce in it is known to nobody who could forge one."""
        for secret, mark in self._made:
            body = body.replace(secret, mark)
        return body

    def put_back(self, body: bytes) -> bytes:
        parts = body.split(self._nonce.hex().encode() + b":")
        return parts[0] + b"".join(_MARK.sub(self._of_mark, part, count=1) for part in parts[1:])

    def _of_mark(self, mark: re.Match[bytes]) -> bytes:
        return self._secret(mark[3].decode(), int(mark[1]), version=int(mark[2])).encode()

    def _secret(self, prefix: str, number: int, *, version: int) -> str:
        pepper = hmac.digest(self._peppers[version], _PURPOSE, "sha256")
        return compose(prefix, hmac.digest(pepper, b"%s%d:%s" % (self._nonce, number, self._key), "sha256")).secret


class Idempotent:
    """Serves POSTs below `prefix` that carry the header; passes all else on as it is."""

    def __init__(
        self,
        app: ASGIApp,
        database: Database,
        *,
        prefix: str,
        peppers: Mapping[int, bytes],
        announce: Callable[[], Awaitable[None]],
        is_detached: IsDetached,
    ) -> None:
        self._app = app
        self._database = database
        self._prefix = prefix
        self._peppers = peppers
        self._announce = announce
        self._is_detached = is_detached

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = [value for name, value in scope.get("headers", ()) if name == b"idempotency-key"]
        if not sent or scope.get("method") != "POST" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        key = _key(sent)
        if key is None:
            await _answer(
                error_responses.invalid("Idempotency-Key", "one of 1 to 255 visible ASCII characters"), scope, send
            )
            return
        try:
            body = await _read(receive)
            await self._serve(scope, body, send, key=key)
        except HTTPException:
            found = error_responses.Answer("payload_too_large", "The body is larger than this API takes.")
            await _answer(found, scope, send)
        except DatabaseUnavailable:
            await _answer(error_responses.UNREACHABLE, scope, send)

    async def _serve(self, scope: Scope, body: bytes, send: Send, *, key: bytes) -> None:
        claim = Claim(
            caller=scope["state"]["actor"].name,
            key_hash=hashlib.sha256(key).digest(),
            fingerprint=_fingerprint(scope, body),
            nonce=token_bytes(NONCE_BYTES),
        )
        captured = _Captured()
        run = self._detached if self._is_detached(scope["path"]) else self._joined
        known = None
        try:
            known = await run(scope, claim, captured, body=body, key=key)
        except DatabaseUnavailable:
            if captured.is_success or not captured.is_begun:
                raise  # what was answered does not hold
        except Exception:
            if not captured.is_success:
                await captured.send(send)
            raise
        await captured.send(send)
        if known is RUNNING:
            detail = "A request with this Idempotency-Key is still running, or broke off."
            await _answer(error_responses.Answer("idempotency_in_progress", detail, {"retry_after": 1}), scope, send)
        elif isinstance(known, Kept):
            await self._repeat(known, claim, scope, send, key=key)

    async def _joined(
        self, scope: Scope, claim: Claim, captured: _Captured, *, body: bytes, key: bytes
    ) -> Kept | idempotency.Running | None:
        async with self._database.transaction() as connection:
            known = await idempotency.claim(connection, claim)
            if known is not None:
                return known
            drawn = await self._run(scope, claim, captured, body=body, key=key, joined=connection)
            if captured.is_success:
                await _keep(connection, claim, captured, drawn)
            else:
                await connection.rollback()
        if captured.is_success:
            await self._announce()
        return None

    async def _detached(
        self, scope: Scope, claim: Claim, captured: _Captured, *, body: bytes, key: bytes
    ) -> Kept | idempotency.Running | None:
        async with self._database.transaction() as connection:
            known = await idempotency.claim(connection, claim)
        if known is not None:
            return known
        drawn = await self._run(scope, claim, captured, body=body, key=key, joined=None)
        async with self._database.transaction() as connection:
            if captured.is_success:
                await _keep(connection, claim, captured, drawn)
            elif captured.is_refusal:
                await idempotency.release(connection, claim)
        return None

    async def _run(
        self,
        scope: Scope,
        claim: Claim,
        captured: _Captured,
        *,
        body: bytes,
        key: bytes,
        joined: AsyncConnection | None,
    ) -> Drawn:
        drawn = Drawn(self._peppers, nonce=claim.nonce, key=key)
        scope["state"] |= {"drawn": drawn, "joined": joined}
        await self._app(scope, _again(body), captured.receive)
        return drawn

    async def _repeat(self, kept: Kept, claim: Claim, scope: Scope, send: Send, *, key: bytes) -> None:
        if not hmac.compare_digest(kept.fingerprint, claim.fingerprint):
            detail = "This Idempotency-Key was sent with another request; give each request a key of its own."
            await _answer(error_responses.Answer("idempotency_key_reused", detail), scope, send)
            return
        body = Drawn(self._peppers, nonce=kept.nonce, key=key).put_back(kept.body)
        headers = [(b"content-length", b"%d" % len(body)), (b"idempotency-replayed", b"true")]
        if kept.media_type is not None:
            headers.append((b"content-type", kept.media_type.encode()))
        await send({"type": "http.response.start", "status": kept.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Captured:
    """An answer that is held back until it is known whether it holds."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def receive(self, message: Message) -> None:
        self._messages.append(message)

    async def send(self, send: Send) -> None:
        for message in self._messages:
            await send(message)

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


async def _keep(connection: AsyncConnection, claim: Claim, captured: _Captured, drawn: Drawn) -> None:
    body = drawn.taken_out(captured.body)
    await idempotency.keep(connection, claim, status_code=captured.status, media_type=captured.media_type, body=body)


def _key(sent: list[bytes]) -> bytes | None:
    found = _KEY.fullmatch(sent[0]) if len(sent) == 1 and len(sent[0]) <= MAX_KEY_BYTES else None
    return None if found is None else bytes(found[1] or found[2])


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    target = scope["path"].encode() + b"?" + scope["query_string"]
    return hashlib.sha256(b"%d:%s%s" % (len(target), target, body)).digest()


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return body


def _again(body: bytes) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive


async def _answer(answer: error_responses.Answer, scope: Scope, send: Send) -> None:
    found = problem(answer.code, answer.detail, request_id=scope["state"]["request_id"], extras=answer.extras)
    await send({"type": "http.response.start", "status": found.status, "headers": list(found.headers)})
    await send({"type": "http.response.body", "body": found.body})
