"""Keeps the responses that are the same for everybody, until what they tell changes.

They are pages and documents that never change, and the plans on offer, which change with the version of the catalogue.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.clock import monotonic_seconds
from gateway.http import problem_reference
from gateway.http.fields import Header

# The version of what a path tells, None while it cannot be told; asked for each request.
Version = Callable[[], Awaitable[int | None]]

# How long a response is repeated while nobody can tell whether it still holds.
UNTOLD_SECONDS = 1.0


class _Stored(NamedTuple):
    version: int | None
    stored_at: float
    headers: list[Header]
    body: bytes
    etag: bytes


class StoredResponseFilter:
    """Answers `GET` of the paths in `versions`, and with 304 where the client has the response already.

    A path of `negotiated` has a response for browsers and another for programs. One that `is_personal` may have a
    response of its own, which is not kept.
    """

    def __init__(
        self,
        app: ASGIApp,
        versions: Mapping[str, Version],
        *,
        negotiated: frozenset[str],
        is_personal: Callable[[Scope], bool],
    ) -> None:
        self._app = app
        self._versions = versions
        self._negotiated = negotiated
        self._is_personal = is_personal
        self._stored: dict[tuple[str, bool], _Stored] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        version_of = self._versions.get(path)
        if version_of is None or scope["method"] != "GET" or self._is_personal(scope):
            await self._app(scope, receive, send)
            return
        # Asked first, so that a response is never stored under a version that came after it was made.
        version = await version_of()
        key = (path, path in self._negotiated and problem_reference.is_html_preferred(_field(scope, b"accept")))
        stored = self._stored.get(key)
        if stored is None or not _holds(stored, version):
            messages: list[Message] = []
            await self._app(scope, receive, _append_to(messages))
            if messages[0]["status"] != 200:
                for message in messages:
                    await send(message)
                return
            stored = self._stored[key] = _store(messages, version)
        await _send_stored(stored, scope, send)


def _holds(stored: _Stored, version: int | None) -> bool:
    if version is None:
        return monotonic_seconds() - stored.stored_at < UNTOLD_SECONDS
    return stored.version == version


def _append_to(messages: list[Message]) -> Send:
    async def append(message: Message) -> None:
        messages.append(message)

    return append


def _store(messages: Sequence[Message], version: int | None) -> _Stored:
    body = b"".join(message.get("body", b"") for message in messages[1:])
    etag = b'"%b"' % urlsafe_b64encode(sha256(body).digest()[:15])
    # A cache may keep it, and asks each time whether it still holds (RFC 9111 section 5.2.2.4).
    headers = [*messages[0]["headers"], (b"etag", etag), (b"cache-control", b"no-cache")]
    return _Stored(version, monotonic_seconds(), headers, body, etag)


async def _send_stored(stored: _Stored, scope: Scope, send: Send) -> None:
    if _is_known(stored.etag, _field(scope, b"if-none-match")):
        headers = [each for each in stored.headers if each[0] not in (b"content-length", b"content-type")]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": stored.headers})
    await send({"type": "http.response.body", "body": stored.body})


def _is_known(etag: bytes, asked: str) -> bool:
    """RFC 9110 section 13.1.2: compared weakly."""
    return asked == "*" or any(each.strip().removeprefix("W/") == etag.decode() for each in asked.split(","))


def _field(scope: Scope, name: bytes) -> str:
    return ", ".join(value.decode("latin-1") for known, value in scope["headers"] if known == name)
