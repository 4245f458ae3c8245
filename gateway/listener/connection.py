"""One client connection: bytes to exchanges, one after the other.

Bytes behind a request wait unread, and bounded, until it is answered: so answers keep their order, and an early answer
cannot lose its place. Every wait for a client has a deadline. A FIN means that the client has left, as for nginx.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, cast

import uvicorn
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway import metrics
from gateway.http.tunnel import Wire
from gateway.listener import request_head as heads
from gateway.listener.body import Body, Chunked, Counted
from gateway.listener.deadline import Deadline
from gateway.listener.exchange import Exchange
from gateway.listener.limits import DEFAULT_LIMITS, Limits
from gateway.listener.refusals import Unacceptable, answer
from gateway.listener.request_head import Head
from gateway.listener.serving import Origin, Serving

# Of a body that the application has not taken, and of requests behind the current one: asyncio's own for writing.
MAX_UNREAD_BYTES = 64 * 1024
# How long a client that is still sending has to read its answer before the reset (Go: 0.5 s, nginx: 5 s and 30 s).
LINGER_SECONDS = 1.0
MAX_LINGER_BYTES = 64 * 1024
# Above the cap, so many connections are told so; the next are closed without a word.
MAX_TURNED_AWAY = 256

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time


class PublicProtocol(asyncio.Protocol):
    """One client connection. The constructor's first four parameters are uvicorn's."""

    __slots__ = (
        "_app",
        "_app_state",
        "_body",
        "_deadline",
        "_exchange",
        "_is_fresh",
        "_is_paused",
        "_last_head",
        "_limits",
        "_linger_bytes",
        "_serving",
        "_stuck_at",
        "_unread",
        "_writable",
        "is_congested",
        "loop",
        "server_state",
        "transport",
    )

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.server_state = server_state
        self.is_congested = False
        self.transport: asyncio.Transport
        self._app = config.loaded_app
        self._app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self._limits = limits
        self._deadline = Deadline(self.loop)
        self._exchange: Exchange | None = None
        self._serving: Serving
        self._body: Body | None = None
        self._last_head: Head | None = None
        self._unread = b""
        self._is_fresh = True
        self._is_paused = False
        self._linger_bytes: int | None = None
        self._stuck_at = 0
        self._writable: asyncio.Event | None = None

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        connections = self.server_state.connections
        connections.add(self)  # type: ignore[arg-type] # uvicorn names its own protocols only
        origin = Origin(
            self._app_state,
            server=get_local_addr(self.transport),
            client=get_remote_addr(self.transport),
            scheme="https" if is_ssl(self.transport) else "http",
        )
        self._serving = Serving(self, self._app, origin, tasks=self.server_state.tasks)
        self._send_small_packets_at_once()
        # Whatever the kernel does not take at once holds the application up: a slow client costs one piece, no more.
        self.transport.set_write_buffer_limits(high=0)
        excess = len(connections) - self._limits.max_connections
        if excess > MAX_TURNED_AWAY:
            self.transport.abort()
        elif excess > 0:
            self._refuse(Unacceptable("too_many_connections", "The gateway serves as many connections as it can."))
        else:
            self._rearm()

    def data_received(self, data: bytes) -> None:
        if self._linger_bytes is not None:
            self._discard(data)
        elif self._body is not None:
            self._read_body(data)
        elif self._exchange is None and not self.is_congested:
            self._read_head(self._unread + data if self._unread else data, len(self._unread))
        else:
            self._unread += data
            if len(self._unread) > MAX_UNREAD_BYTES:
                self._pause_reading()

    def pause_writing(self) -> None:
        self.is_congested = True
        self._watch_writing()

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._writable is not None:
            self._writable.set()
        if self._exchange is None and self._linger_bytes is None and not self.transport.is_closing():
            self._go_on()
        self._rearm()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost changes nothing
        self.server_state.connections.discard(self)
        self._deadline.cancel()
        self.is_congested = False
        if self._writable is not None:
            self._writable.set()
        self._serving.end()
        exchange, self._exchange = self._exchange, None
        self._body = None
        self._unread = b""
        if exchange is not None and not exchange.is_complete:
            exchange.leave()

    # What uvicorn tells.

    def shutdown(self) -> None:
        """No request after the current one."""
        if self._exchange is None:
            self._close()
        else:
            self._exchange.keeps_alive = False

    # What whoever serves it asks.

    @property
    def is_free(self) -> bool:
        return self._exchange is None and not self.transport.is_closing()

    def break_off(self, exchange: Exchange, unacceptable: Unacceptable) -> None:
        """Ends an exchange that cannot be completed: by an answer while there is none, else visibly broken."""
        if exchange.is_started:
            exchange.abort()
            return
        self._refuse(unacceptable, has_body=not exchange.is_head)
        exchange.leave()

    # What the exchange tells.

    async def drained(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()
        await self._writable.wait()

    def resume_reading(self) -> None:
        if self._is_paused and len(self._unread) <= MAX_UNREAD_BYTES and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()

    def await_body(self) -> None:
        self._rearm()

    def finish(self, exchange: Exchange) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not exchange.keeps_alive:
            self._linger()
            return
        self._exchange = None
        if self.is_congested:
            return  # what follows waits until the client has taken this answer
        if self._unread or self._is_paused:
            self._go_on()
        if self._exchange is None and not self._unread:
            self._deadline.set(self._limits.keep_alive_seconds, self._close)  # as `_rearm` would

    def hand_over(self) -> Wire:
        self._deadline.clear()
        unread, self._unread = self._unread, b""
        self.resume_reading()
        return Wire(self.transport, unread)

    def cut(self, *, hard: bool) -> None:
        if hard:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _send_small_packets_at_once(self) -> None:
        """uvloop has done so; asyncio has not, unless the listening socket was made with the protocol's number."""
        own = self.transport.get_extra_info("socket")
        if own.family in (socket.AF_INET, socket.AF_INET6):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Reading.

    def _read_head(self, data: bytes, seen: int) -> None:
        """`seen`: how much of the data an earlier call has looked at in vain."""
        end = data.find(b"\r\n\r\n", max(0, seen - 3)) + 4
        try:
            if end < 4:
                self._keep_unfinished(data, seen)
                return
            if end > self._limits.max_header_bytes:
                self._check_size(data[:end], seen)
            head = heads.parse(data[:end] if end < len(data) else data, self._last_head)
        except Unacceptable as unacceptable:
            self._refuse(unacceptable, has_body=not data.startswith(b"HEAD "))
            return
        self._unread = b""
        self._begin(head, data[end:])

    def _go_on(self) -> None:
        """Reads what has come behind the last request."""
        data, self._unread = self._unread, b""
        self.resume_reading()
        if data:
            self._read_head(data, 0)

    def _keep_unfinished(self, data: bytes, seen: int) -> None:
        self._check_size(data, seen)
        is_first = not seen and not self._is_fresh
        self._unread = data
        if is_first:
            self._rearm()

    def _check_size(self, head: bytes, seen: int) -> None:
        heads.check_unfinished(head, seen)
        most = self._limits.max_header_bytes
        if len(head) > most:
            raise Unacceptable("headers_too_large", f"The request line and its fields are larger than {most} bytes.")

    def _begin(self, head: Head, rest: bytes) -> None:
        self._is_fresh = False
        self._last_head = head if head.block else None
        exchange = self._exchange = Exchange(self, head)
        if not self.is_congested:
            self._deadline.clear()
        self._serving.begin(exchange)
        length = head.body_length
        if length is not None and length <= len(rest):
            exchange.feed(rest[:length], is_last=True)
            if length < len(rest):
                self.data_received(rest[length:])
        else:
            self._body = Chunked() if length is None else Counted(length)
            if rest:
                self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        body, exchange = self._body, self._exchange
        if body is None or exchange is None:
            raise AssertionError("a body belongs to a request")
        try:
            content, rest = body.feed(data)
        except Unacceptable as unacceptable:
            self.break_off(exchange, unacceptable)
            return
        if body.is_complete:
            self._body = None
        exchange.feed(content, is_last=body.is_complete)
        self._rearm()
        if exchange.buffered > MAX_UNREAD_BYTES:
            self._pause_reading()
        if rest:
            self.data_received(rest)

    def _pause_reading(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    # Ending.

    def _refuse(self, unacceptable: Unacceptable, *, has_body: bool = True) -> None:
        metrics.REFUSALS.labels(metrics.OTHER, unacceptable.code).inc()
        if not self.transport.is_closing():
            self.transport.write(answer(unacceptable.code, unacceptable.detail, has_body=has_body))
            self._linger()

    def _linger(self) -> None:
        """Closes in two steps (RFC 9112 section 9.6): bytes that come after a close reset it, answer and all."""
        if not self.transport.can_write_eof():
            self._close()  # TLS has its own two steps
            return
        self._linger_bytes = MAX_LINGER_BYTES
        self._body = None
        self._unread = b""
        self.resume_reading()
        self.transport.write_eof()
        self._rearm()

    def _discard(self, data: bytes) -> None:
        self._linger_bytes = (self._linger_bytes or 0) - len(data)
        if self._linger_bytes < 0:
            self._pause_reading()

    def _close(self) -> None:
        """Closes when what is written has left, and watches that it does."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_writing()

    def _time_out_head(self) -> None:
        if self._unread == b"\r\n":
            self._close()  # an empty line after a request is none of the next (RFC 9112 section 2.2)
        else:
            self._refuse(Unacceptable("request_timeout", "The request head did not arrive in time."))

    def _time_out_body(self) -> None:
        if self._exchange is not None:
            timeout = Unacceptable("request_timeout", "The request body stopped arriving.")
            self.break_off(self._exchange, timeout)

    def _rearm(self) -> None:
        """One deadline, for what the connection waits for now; an application may take its time."""
        limits = self._limits
        if self.is_congested or self.transport.is_closing():
            return  # the watch over writing stays
        if self._linger_bytes is not None:
            self._deadline.set(LINGER_SECONDS, self._close)
        elif self._exchange is not None:
            if self._exchange.awaits_body:
                self._deadline.set(limits.body_idle_timeout_seconds, self._time_out_body)
            else:
                self._deadline.clear()
        elif self._unread or self._is_fresh:
            self._deadline.set(limits.header_timeout_seconds, self._time_out_head)
        else:
            self._deadline.set(limits.keep_alive_seconds, self._close)

    def _watch_writing(self) -> None:
        self._stuck_at = self.transport.get_write_buffer_size()
        self._deadline.set(self._limits.body_idle_timeout_seconds, self._cut_if_stuck)

    def _cut_if_stuck(self) -> None:
        if self.transport.get_write_buffer_size() < self._stuck_at:
            self._watch_writing()
        else:
            self.transport.abort()
