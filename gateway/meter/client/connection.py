"""A pipelined connection to Redis: all commands of a loop iteration go in one write, replies resolve in order.

hiredis parses; the rest is a deque of futures. A cancelled caller cancels its future, never its place in the deque, so
no reply ever reaches another caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

from gateway.meter.client.errors import MeterUnavailable, NotSent

MAX_PENDING = 20_000  # commands awaiting a reply; with more, Redis is too slow for waiting to help
READ_FIRST_SECONDS = 0.001


class PipelinedConnection(asyncio.Protocol):
    """Buffers commands, keeps a future for each reply, and times out by the oldest one.

    A server that stops reading fills the write buffer until that deadline at most.
    """

    def __init__(
        self,
        stream: asyncio.StreamWriter,
        timeout_seconds: float,
        *,
        on_lost: Callable[[PipelinedConnection], None],
        failure_of: Callable[[hiredis.ReplyError], Exception] | None = None,
    ) -> None:
        """`failure_of` makes the exception that an error reply raises; without it, such a reply is one like others."""
        self._stream = stream  # closes its transport when it is collected
        self._timeout_seconds = timeout_seconds
        self._on_lost = on_lost
        self._failure_of = failure_of
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Future[Any] | None = None
        self._lost = False
        self._transport = cast(asyncio.Transport, stream.transport)
        if self._transport.is_closing():
            raise ConnectionResetError("closed by the server")  # redis-py was told of its loss, this protocol never is
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
        """Closes the connection, and fails every pending command."""
        self._fail(reason)

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                future, _ = pending.popleft()
                if future.done():
                    continue
                if isinstance(reply, hiredis.ReplyError) and self._failure_of is not None:
                    future.set_exception(self._failure_of(reply))
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._fail("Redis sent an invalid reply")

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
            # A busy loop runs timers late and before it reads, so the socket is read once more before Redis is blamed.
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
    """Takes the connected and authenticated socket from redis-py; the caller must close it."""
    stream = cast(asyncio.StreamWriter, connection._writer)  # noqa: SLF001 - redis-py has no public way
    connection._reader = connection._writer = None  # noqa: SLF001
    return stream
