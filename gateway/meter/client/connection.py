"""A connected socket to Redis: commands of a loop turn leave in one write, replies resolve in order.

hiredis parses; the rest is a deque of futures. A caller that goes away cancels its future, never its place in the
deque, so no reply ever reaches another caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

from gateway.meter.client.errors import MeterUnavailable, NotSent

MAX_PENDING = 20_000  # commands awaiting a reply; past it Redis is slower than we are, and waiting longer helps nobody
READ_FIRST_SECONDS = 0.001


class PipelinedConnection(asyncio.Protocol):
    """A buffer going out, a deque of futures coming back, one deadline for the oldest.

    A server that stops reading fills our write buffer no longer than until that deadline.
    """

    def __init__(
        self, stream: asyncio.StreamWriter, timeout_seconds: float, *, on_lost: Callable[[PipelinedConnection], None]
    ) -> None:
        self._stream = stream  # closes its transport when it is collected
        self._timeout_seconds = timeout_seconds
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Future[Any] | None = None
        self._lost = False
        self._transport = cast(asyncio.Transport, stream.transport)
        if self._transport.is_closing():
            raise ConnectionResetError("closed by the server")  # its loss was reported to redis-py, never to us
        self._transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"{len(self._pending)} pending"

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        if self._lost or len(self._pending) >= MAX_PENDING:
            raise NotSent("Redis does not keep up" if not self._lost else "connection to Redis lost")
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        future = self._loop.create_future()
        self._pending.append((future, self._loop.time() + self._timeout_seconds))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_seconds, self._check_oldest)
        return future

    def drop(self, reason: str) -> None:
        """Gives the connection up, and with it every call under way."""
        self._fail(reason)

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                future, _ = pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._fail("Redis sent what is not a reply")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._fail("connection to Redis lost")

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._lost:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def _check_oldest(self) -> None:
        self._timer = None
        if not self._pending:
            return
        oldest, deadline = self._pending[0]
        wait = deadline - self._loop.time()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._check_oldest)
        elif self._overdue is not oldest:
            # A busy loop runs its timers late and before it reads: look into the socket once before blaming Redis.
            self._overdue = oldest
            self._timer = self._loop.call_later(READ_FIRST_SECONDS, self._check_oldest)
        else:
            self._fail("Redis did not answer in time")

    def _fail(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(MeterUnavailable(reason))
        self._on_lost(self)


def take_over(connection: AbstractConnection) -> asyncio.StreamWriter:
    """The socket that redis-py has connected and authenticated; from here on it is ours alone to close."""
    stream = cast(asyncio.StreamWriter, connection._writer)  # noqa: SLF001 - redis-py has no other way to hand it over
    connection._reader = connection._writer = None  # noqa: SLF001
    return stream
