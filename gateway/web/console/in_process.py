"""Calls endpoints of the admin API within the process, as an operator who is signed in.

So a page shows and does exactly what the API would: scopes, validation, audit and idempotency are the API's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.admin.auth import Actor
from gateway.api.admin.scopes import PREFIX
from gateway.request_ids import uuid7

Json = Any
Params = Mapping[str, Any]


class ApiRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The API answered with a problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or str(status))
        self.status = status
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ApiCaller:
    """An operator's calls; `app` is the API behind the check of tokens."""

    app: ASGIApp
    actor: Actor
    address: str

    async def get(self, path: str, **params: Any) -> Json:
        """The JSON of a response; parameters that are None are left out. Raises ApiRefused."""
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: Params | None = None, *, once: str | None = None) -> Json:
        """With `once` it is done once, however often the form is sent. Raises ApiRefused."""
        return await self.call("POST", path, body=body, once=once)

    def forwarded(self, path: str) -> Response:
        """What the API answers, as it is: for files, which are not read into memory."""
        return _Forwarded(self.app, _scope(self, "GET", path, {}, None))

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Params | None = None,
        once: str | None = None,
    ) -> Json:
        content = b"" if body is None else json.dumps(body).encode()
        status, answer = await self._send(_scope(self, method, path, params or {}, once), content)
        found = json.loads(answer) if answer else None
        if status >= 400:
            raise ApiRefused(status, found or {})
        return found

    async def _send(self, scope: dict[str, Any], content: bytes) -> tuple[int, bytes]:
        status, answer, requests = 500, bytearray(), [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> Message:
            return requests.pop() if requests else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                answer.extend(message.get("body", b""))

        headers = [(b"content-length", str(len(content)).encode())] if content else []
        await self.app({**scope, "headers": scope["headers"] + headers}, receive, send)
        return status, bytes(answer)


class _Forwarded(Response):
    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        super().__init__()
        self._app = app
        self._scope = scope

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await self._app(self._scope, receive, send)


def segment(value: object) -> str:
    """A value as one segment of a path."""
    return quote(str(value), safe="")


def is_uuid(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True


def _scope(caller: ApiCaller, method: str, path: str, params: Params, once: str | None) -> dict[str, Any]:
    known = [(name.rstrip("_"), _text(value)) for name, value in params.items() if value is not None]
    full = PREFIX.rstrip("/") + path
    headers = [(b"content-type", b"application/json"), (b"accept", b"application/json")]
    if once:
        headers.append((b"idempotency-key", once.encode("ascii", "replace")))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": full,
        "raw_path": full.encode(),
        "root_path": "",
        "query_string": urlencode(known).encode(),
        "headers": headers,
        "client": (caller.address, 0),
        "server": None,
        "state": {"caller": caller.actor, "request_id": uuid7()},
    }


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
