"""Runs the application for a connection's requests in one task: a task for each would cost 3 µs more.

A request gets a new task where the application still runs after its last response, or has set a context variable.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Protocol

import structlog
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway import metrics
from gateway.http.problem_types import STATUS
from gateway.listener.error_response import INTERNAL_ERROR, SHUTTING_DOWN, RequestError
from gateway.listener.exchange import Exchange
from gateway.listener.request_head import RequestHead

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_log = structlog.get_logger()


class ClientConnection(Protocol):
    """The connection, as the runner uses it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def break_off(self, exchange: Exchange, error: RequestError) -> None:
        """Ends an exchange that cannot be completed."""


class ScopeTemplate:
    """What the ASGI scopes of a connection's requests have in common, and those of a request line that is repeated."""

    __slots__ = ("_common", "_of_line", "_request_line", "_state", "client_host")

    def __init__(self, state: dict[str, Any], transport: asyncio.Transport) -> None:
        self._state = state
        client = get_remote_addr(transport)
        self.client_host = client[0] if client else ""
        self._common = {
            "type": "http",
            "asgi": _ASGI,
            "server": get_local_addr(transport),
            "client": client,
            "scheme": "https" if is_ssl(transport) else "http",
            "root_path": "",
        }
        self._request_line = b""
        self._of_line: dict[str, Any] = {}

    def scope(self, exchange: Exchange) -> dict[str, Any]:
        head = exchange.head
        of_line = self._of_line if head.request_line == self._request_line else self._read(head)
        state, extensions = self._state.copy(), {"gateway.client": exchange}
        return {**of_line, "headers": head.headers, "state": state, "extensions": extensions}

    def _read(self, head: RequestHead) -> dict[str, Any]:
        path = head.raw_path.decode()
        of_line = {
            **self._common,
            "http_version": "1.0" if head.is_http_1_0 else "1.1",
            "method": head.method,
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": head.raw_path,
            "query_string": head.query,
        }
        if head.raw:  # others are too long to keep, or never the same again
            self._request_line, self._of_line = head.request_line, of_line
        return of_line


class ExchangeRunner:
    """Runs the application for each exchange. `tasks` holds the tasks that run one at present."""

    __slots__ = ("_app", "_connection", "_is_stopped", "_scopes", "_task", "_tasks", "_waiter")

    def __init__(
        self,
        connection: ClientConnection,
        app: Callable[..., Awaitable[None]],
        scopes: ScopeTemplate,
        *,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._connection = connection
        self._app = app
        self._scopes = scopes
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[Exchange | None] | None = None  # for the next exchange
        self._is_stopped = False

    def start(self, exchange: Exchange) -> None:
        waiter, self._waiter = self._waiter, None
        if self._task is None or waiter is None or waiter.done():
            self._task = self._connection.loop.create_task(self._run(exchange))
        else:
            waiter.set_result(exchange)
        exchange.task = self._task
        self._tasks.add(self._task)

    def start_if_awaited(self, exchange: Exchange) -> None:
        """Starts an exchange that had to wait, unless its client has left meanwhile."""
        if not exchange.is_disconnected:
            self.start(exchange)

    def stop(self) -> None:
        """Ends a task that waits, or would: no exchange follows."""
        self._is_stopped = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _run(self, exchange: Exchange | None) -> None:
        context = copy_context()
        while exchange is not None:
            is_returned = False
            error = INTERNAL_ERROR
            try:
                await self._app(self._scopes.scope(exchange), exchange.receive, exchange.send)
                is_returned = True
            except asyncio.CancelledError:
                error = SHUTTING_DOWN
                raise
            finally:
                self._finish(exchange, error, is_returned=is_returned)
            is_last = self._is_stopped or not exchange.keeps_alive or self._waiter is not None
            if is_last or copy_context() != context:
                return
            waiter: asyncio.Future[Exchange | None] = self._connection.loop.create_future()
            self._task, self._waiter = exchange.task, waiter
            try:
                exchange = await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled() and (next_exchange := waiter.result()) is not None:
                    self._finish(next_exchange, SHUTTING_DOWN, is_returned=False)
                raise

    def _finish(self, exchange: Exchange, error: RequestError, *, is_returned: bool) -> None:
        """`error` answers a request that the application has not."""
        task = exchange.task
        if task is not None:
            self._tasks.discard(task)
            if not is_returned:
                task.add_done_callback(_log_failure)  # only then: a callback costs 2 µs
        if not exchange.is_complete and not exchange.is_disconnected:
            if is_returned:
                _log.error("response_incomplete")
            if not exchange.is_started:
                metrics.REQUESTS.labels(metrics.OTHER, metrics.OTHER, str(STATUS[error.code])).inc()
            self._connection.break_off(exchange, error)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        _log.error("application_failed", exc_info=failure)
