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
TICKS = 10  # looks at the socket before a reply is late


class PipelinedConnection(asyncio.Protocol):
    """Buffers commands, keeps a future for each reply, and times out by the oldest one.

    The timeout is counted in ticks, of which a turn of the loop has one at most: a process that stood still, or whose
    turns are long, has sent late and reads late, and finds the replies in the socket. When a reply is late, all that
    wait fail, and `is_late` until the server has caught up; if it has not within another timeout the connection is
    lost. A server that stops reading fills the write buffer until then at most.
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
        self._pending: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._ticks = 0
        self._lost_at: int | None = None
        self._outgoing: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._transport = cast(asyncio.Transport, stream.transport)
        if self._transport.is_closing():
            raise ConnectionResetError("closed by the server")  # redis-py was told of its loss, this protocol never is
        self._transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"{len(self._pending)} pending"

    @property
    def is_late(self) -> bool:
        """Whether the server has not answered in time, and nothing is sent to it."""
        return self._lost_at is not None

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        if self._lost or self._lost_at is not None or len(self._pending) >= MAX_PENDING:
            raise NotSent(self._why_not())
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        future = self._loop.create_future()
        self._pending.append((future, self._ticks + TICKS))
        if self._timer is None:
            self._tick_soon()
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
        if not pending:
            self._lost_at = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._fail("connection to Redis lost")

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._lost:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def _why_not(self) -> str:
        if self._lost:
            return "connection to Redis lost"
        return "not connected to Redis: it has not answered in time" if self.is_late else "Redis does not keep up"

    def _tick_soon(self) -> None:
        self._timer = self._loop.call_later(self._timeout_seconds / (TICKS + 1), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._ticks += 1
        if not self._pending:
            return
        late_at = self._pending[0][1] if self._lost_at is None else self._lost_at
        if self._ticks <= late_at:  # one more than due: the first one may have come before the command went
            self._tick_soon()
        elif self._lost_at is None:
            self._lost_at = self._ticks + TICKS
            self._tick_soon()
            self._fail_pending("Redis did not answer in time")
        else:
            self._fail("Redis did not answer in time")

    def _fail(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._fail_pending(reason)
        self._pending.clear()
        self._on_lost(self)

    def _fail_pending(self, reason: str) -> None:
        """Fails all that wait. Each keeps its place for its reply."""
        for future, _ in self._pending:
            if not future.done():
                future.set_exception(MeterUnavailable(reason))


def take_over(connection: AbstractConnection) -> asyncio.StreamWriter:
    """Takes the connected and authenticated socket from redis-py; the caller must close it."""
    stream = cast(asyncio.StreamWriter, connection._writer)  # noqa: SLF001 - redis-py has no public way
    connection._reader = connection._writer = None  # noqa: SLF001
    return stream
