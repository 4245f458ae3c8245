"""The task that serves a connection's requests, one after the other: a task for each would cost 3 µs more.

Where an application goes on after its answer, the next request does not wait for it, but gets a task of its own; and so
it does where the application has left a context variable behind.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Protocol, cast

import structlog

from gateway.listener.exchange import Exchange
from gateway.listener.refusals import Unacceptable

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_log = structlog.get_logger()


class Served(Protocol):
    """The connection, as whoever serves it sees it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def is_free(self) -> bool:
        """Whether it waits for a request."""

    def break_off(self, exchange: Exchange, unacceptable: Unacceptable) -> None:
        """Ends an exchange that cannot be completed."""


class Origin:
    """Where a connection's requests come from: what their scopes have in common."""

    __slots__ = ("_common", "_state")

    def __init__(
        self,
        state: dict[str, Any],
        *,
        server: tuple[str, int | None] | None,
        client: tuple[str, int] | None,
        scheme: str,
    ) -> None:
        self._state = state
        self._common = {
            "type": "http",
            "asgi": _ASGI,
            "server": server,
            "client": client,
            "scheme": scheme,
            "root_path": "",
        }

    def scope(self, exchange: Exchange) -> dict[str, Any]:
        head = exchange.head
        path = head.raw_path.decode()
        return {
            **self._common,
            "http_version": "1.0" if head.is_http_1_0 else "1.1",
            "method": head.method,
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "state": self._state.copy(),
            "extensions": {"gateway.client": exchange},
        }


class Serving:
    """Serves the exchanges that are begun; `tasks` are all those that serve one at present."""

    __slots__ = ("_app", "_connection", "_origin", "_task", "_tasks", "_waiter")

    def __init__(
        self, connection: Served, app: Callable[..., Awaitable[None]], origin: Origin, *, tasks: set[asyncio.Task[None]]
    ) -> None:
        self._connection = connection
        self._app = app
        self._origin = origin
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[Exchange | None] | None = None  # for the next exchange

    def begin(self, exchange: Exchange) -> None:
        waiter, self._waiter = self._waiter, None
        if self._task is None or waiter is None or waiter.done():
            self._task = self._connection.loop.create_task(self._serve(exchange))
        else:
            waiter.set_result(exchange)
        exchange.task = self._task
        self._tasks.add(self._task)

    def end(self) -> None:
        """No exchange follows."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _serve(self, exchange: Exchange | None) -> None:
        context = copy_context()
        while exchange is not None:
            is_served = False
            try:
                await self._app(self._origin.scope(exchange), exchange.receive, exchange.send)
                is_served = True
            finally:
                self._served(exchange, is_served=is_served)
            exchange = await self._next(exchange.task) if copy_context() == context else None

    async def _next(self, task: asyncio.Task[None] | None) -> Exchange | None:
        """The next exchange; None where there is none, or another task serves what has come in the meantime."""
        if self._waiter is not None or not self._connection.is_free:
            return None
        waiter: asyncio.Future[Exchange | None] = self._connection.loop.create_future()
        self._task, self._waiter = task, waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and (begun := waiter.result()) is not None:
                self._served(begun, is_served=False)
            raise

    def _served(self, exchange: Exchange, *, is_served: bool) -> None:
        task = cast("asyncio.Task[None]", exchange.task)
        self._tasks.discard(task)
        if not is_served:
            task.add_done_callback(_report)  # not for every task: a callback costs 2 µs
        if not exchange.is_complete and not exchange.is_gone:
            if is_served:
                _log.error("the application did not complete its response")
            self._connection.break_off(exchange, Unacceptable("internal_error", "The gateway failed to answer."))


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        _log.error("the application failed", exc_info=failure)
