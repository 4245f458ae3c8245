"""What requests pass before an API: a request id, the host, authentication before the body is read, a body limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from gateway import metrics
from gateway.api import error_responses
from gateway.api.errors import Invalid, NotAuthenticated, Suspended, Throttled
from gateway.api.page_policy import with_defaults
from gateway.http.known_hosts import KnownHosts
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.request_ids import is_echoable, uuid7
from policies.model import Refusal, Refused
from policies.wording import shortened

_MAX_HOST_CHARACTERS = 100


class RequestIdMiddleware:
    """Gives a request an id, the client's own where it may be echoed, and its response `Cache-Control: no-store`
    and what keeps browsers from doing more with it than they should.

    Being the first to see a request it also answers and counts what fails; the server logs it, with the id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fields = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = fields[0].decode("ascii") if len(fields) == 1 and is_echoable(fields[0]) else uuid7()
        scope.setdefault("state", {})["request_id"] = request_id
        # Never unbound: the server logs what was raised in the same task, which ends with the request.
        bind_contextvars(request_id=request_id)

        is_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                if message["status"] == 500:
                    metrics.REQUESTS.labels(metrics.OTHER, metrics.OTHER, "500").inc()
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message["headers"] = with_defaults(headers)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            if not is_started:
                await error_responses.send(error_responses.FAILED, scope, send_with_id)
            raise


class HeadMiddleware:
    """Answers HEAD with the status and the fields that GET has, without its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # A copy: the server looks at its own for the framing of the response.
        await self._app({**scope, "method": "GET"}, receive, send_head)


class HostMiddleware:
    """Refuses requests to the admin listener for other hosts than `names` and those that `KnownHosts` always knows."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._known = KnownHosts(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
        refused = self._known.first_unknown(hosts)
        if scope["type"] != "http" or refused is None:
            await self._app(scope, receive, send)
            return
        name = shortened(refused, _MAX_HOST_CHARACTERS)
        detail = f"The admin listener is not known as {name!r}; an operator can list it in server.admin_hosts."
        error = Refused(Refusal.BAD_REQUEST, detail)
        await error_responses.send_failure(error, scope, send)


class AuthMiddleware:
    """Authenticates a request before its body is read; endpoints find the caller as `request.state.caller`.

    `authenticate` gives the caller, or raises NotAuthenticated, Suspended, Throttled, Refused or DatabaseUnavailable,
    and the response says so. `is_open` is true for requests that need no caller.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Callable[[Request], Awaitable[object]],
        *,
        is_open: Callable[[Scope], bool],
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_open(scope):
            request = Request(scope)
            try:
                scope["state"]["caller"] = await self._authenticate(request)
            except (NotAuthenticated, Suspended, Throttled, Refused, DatabaseUnavailable) as error:
                await error_responses.send_failure(error, scope, send)
                return
        await self._app(scope, receive, send)


class BodyLimitMiddleware:
    """Hands a body of at most `max_body_bytes` over in one piece.

    An application that asks for a longer body gets HTTPException(413), before a byte is read where Content-Length
    announces it. So what a request makes the application parse is bounded, however its body is cut into chunks.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: Callable[[str], int]) -> None:
        """`max_body_bytes` gives the limit of a path."""
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._max_body_bytes(scope["path"])
        is_read = False

        async def receive_whole() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            if _content_length(scope) > max_bytes:
                raise HTTPException(413)
            return await _read_body(receive, max_bytes)

        await self._app(scope, receive_whole, send)


async def refuse_ignored_body(request: Request) -> None:
    """Raises Invalid for a body that the operation would ignore, so that nobody takes it for heard."""
    takes_one = request.method in _WITHOUT_BODY or getattr(request.scope["route"], "body_field", None) is not None
    if takes_one or request.url.path.startswith("/webhooks/"):  # which are read as they were signed
        return
    if (await request.body()).strip() not in (b"", b"{}", b"null"):
        raise Invalid("body", "must be empty: this operation takes none")


_WITHOUT_BODY = frozenset({"GET", "HEAD"})


def _content_length(scope: Scope) -> int:
    announced = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(announced[0]) if announced and announced[0].isdigit() else 0


async def _read_body(receive: Receive, max_bytes: int) -> Message:
    """The whole body as one message, or the message that ended it. Raises HTTPException(413)."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise HTTPException(413)
        if not message.get("more_body", False):
            return {"type": "http.request", "body": bytes(body), "more_body": False}


def repeating(message: Message, receive: Receive) -> Receive:
    """`receive`, with a message before that it has given already."""
    messages = [message]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def is_operation(routes: Iterable[BaseRoute], scope: Scope) -> bool:
    """Whether an endpoint serves this method and path; any other request is answered with 404 or 405."""
    return any(route.matches(scope)[0] is Match.FULL for route in routes)
