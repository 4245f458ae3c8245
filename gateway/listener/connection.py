"""One client connection: turns bytes into exchanges, one after the other.

Pipelined bytes wait in a bounded buffer until the request before them is answered, so responses keep their order. Every
wait for the client has a deadline. After a FIN the client gets the answers to what it has sent whole.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from gateway import metrics
from gateway.http.chunked import MalformedChunksError
from gateway.http.tunnel import Wire
from gateway.listener import ending, request_head
from gateway.listener.connection_gate import ConnectionGate, set_no_delay
from gateway.listener.error_response import BODY_TIMEOUT, HEAD_TIMEOUT, SHUTTING_DOWN, RequestError, render_error
from gateway.listener.exchange import Exchange
from gateway.listener.exchange_runner import ExchangeRunner, ScopeTemplate
from gateway.listener.limits import BodyPace, Deadline
from gateway.listener.request_body import BodyReader, body_reader
from gateway.listener.request_head import RequestHead
from gateway.listener.turns import shares_of

# Of a body that the application has not taken, and of pipelined requests: what asyncio allows for writing.
MAX_UNREAD_BYTES = 64 * 1024


class PublicProtocol(asyncio.Protocol):
    """One client connection. The constructor's first four parameters are uvicorn's."""

    __slots__ = (
        "_address",
        "_app",
        "_app_state",
        "_awaits_turn",
        "_backlog",
        "_body",
        "_deadline",
        "_exchange",
        "_gate",
        "_is_fresh",
        "_is_paused",
        "_last_head",
        "_linger_bytes",
        "_pace",
        "_runner",
        "_turns",
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
        gate: ConnectionGate,
    ) -> None:
        self.server_state = server_state
        self.is_congested = False
        self.transport: asyncio.Transport
        self._app = config.loaded_app
        self._app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self._gate = gate  # which has the limits
        self._turns = self._gate.turns(self.loop)
        self._awaits_turn = False
        self._address: str | None = None
        self._deadline = Deadline(self.loop)
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None
        self._last_head: RequestHead | None = None
        self._pace: BodyPace | None = None
        self._unread = self._backlog = b""  # the backlog is of the body: what is left for another turn of the loop
        self._is_fresh = True
        self._is_paused = False
        self._linger_bytes: int | None = None
        self._writable: asyncio.Event | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type] # uvicorn names its own protocols only
        template = ScopeTemplate(self._app_state, self.transport)
        self._runner = ExchangeRunner(self, self._app, template, tasks=self.server_state.tasks)
        set_no_delay(self.transport)
        # The application waits for what the kernel does not take at once: a slow client costs one piece of memory.
        self.transport.set_write_buffer_limits(high=0)
        self._address, error, is_cut = self._gate.enter(template.client_host, self.server_state.connections)
        if is_cut:
            self.transport.abort()
        elif error is not None:
            self._refuse(error)
        else:
            self._rearm()

    def data_received(self, data: bytes) -> None:
        if self._linger_bytes is not None:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self._pause_reading()
        elif self._body is not None:
            if self._pace is not None:
                self._pace.received(len(data), self.loop.time())
            self._backlog = self._backlog + data if self._backlog else data
            if self._turns.take(shares_of(len(data))):
                self._read_backlog()
            else:
                self._pause_reading()
                self._read_later(shares_of(len(data)))
        elif self._exchange is None and not self.is_congested:
            self._read_head(self._unread + data if self._unread else data, len(self._unread))
        else:
            self._unread += data
            if len(self._unread) > MAX_UNREAD_BYTES:
                self._pause_reading()

    def eof_received(self) -> bool:
        """True keeps the connection of a client that may wait for the answer to a request that has come whole."""
        probe = None if self._exchange is None or self._linger_bytes is not None else self._exchange.probe
        half_closed = ending.half_closed(self.transport, self.loop, probe)
        if half_closed is not None:
            self.transport, self._gate = half_closed, self._gate.after_end()
        return half_closed is not None

    def pause_writing(self) -> None:
        self.is_congested = True
        ending.cut_if_stuck(self.transport, self._deadline, self._gate.limits)

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._writable is not None:
            self._writable.set()
        if self._exchange is None and self._linger_bytes is None and not self.transport.is_closing():
            self._read_pipelined()
        self._rearm()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost changes nothing
        self.server_state.connections.discard(self)
        self._deadline.cancel()
        self.is_congested = False
        if self._writable is not None:
            self._writable.set()
        self._runner.stop()
        del self._runner  # which has this connection: such a cycle would stay in memory until the collector runs
        exchange, self._exchange = self._exchange, None
        self._body, self._unread, self._backlog = None, b"", b""
        self._gate.leave(self._address)
        if exchange is not None and not exchange.is_complete:
            exchange.leave()

    # Called by uvicorn and the gate.

    @property
    def idle_since(self) -> float | None:
        """Since when the connection has waited for a request; None where it does not."""
        due = self._deadline.at
        is_waiting = self._exchange is None and self._linger_bytes is None and not self.is_congested
        if not is_waiting or due == inf or self.transport.is_closing():
            return None
        limits = self._gate.limits
        return due - (limits.header_timeout_seconds if self._unread or self._is_fresh else limits.keep_alive_seconds)

    def shutdown(self) -> None:
        """Lets the current exchange end, and closes; while the gateway drains, after requests that are on their way."""
        if self._exchange is not None:
            self._exchange.keeps_alive &= self._exchange.is_started  # a head that is sent has promised it
        elif self._gate.is_draining:
            self._is_fresh = False
            self._rearm()
        else:
            self._close()

    # Called by the exchange runner.

    def break_off(self, exchange: Exchange, error: RequestError) -> None:
        """Ends an exchange that cannot be completed: by a problem document, or by a cut if its response has begun."""
        if exchange.is_started:
            exchange.abort()
            return
        self._refuse(error, exchange.render_error(error))
        exchange.leave()

    # Called by the exchange.

    async def drained(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()
        await self._writable.wait()

    def resume_reading(self) -> None:
        if self._backlog:
            self._read_later()
        elif self._is_paused and len(self._unread) <= MAX_UNREAD_BYTES and not self.transport.is_closing():
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
            return  # pipelined requests wait until the client has taken this response
        if self._unread or self._is_paused:
            self._read_pipelined()
        if self._exchange is None and not self._unread:
            self._deadline.set(self._gate.limits.keep_alive_seconds, self._close_idle)  # as `_rearm` would

    def hand_over(self) -> Wire:
        self._deadline.clear()
        unread, self._unread = self._unread, b""
        self.resume_reading()
        return Wire(self.transport, unread)

    # Reading.

    def _read_head(self, data: bytes, seen: int) -> None:
        """An earlier call has found no end in the first `seen` bytes."""
        end = data.find(b"\r\n\r\n", max(0, seen - 3)) + 4
        try:
            if end < 4:
                self._keep_unfinished(data, seen)
                return
            if end > self._gate.limits.max_header_bytes:
                request_head.check_unfinished(data[:end], seen, self._gate.limits.max_header_bytes)
            head = request_head.parse(data[:end] if end < len(data) else data, self._last_head)
        except RequestError as error:
            self._refuse(error, render_error(error, has_body=not data.startswith(b"HEAD ")))
            return
        self._unread = b""
        self._begin(head, data[end:])

    def _read_pipelined(self) -> None:
        data, self._unread = self._unread, b""
        self.resume_reading()
        if data:
            self._read_head(data, 0)

    def _keep_unfinished(self, data: bytes, seen: int) -> None:
        request_head.check_unfinished(data, seen, self._gate.limits.max_header_bytes)
        self._unread = data
        if not seen and not self._is_fresh:
            self._rearm()

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        self._is_fresh = False
        self._last_head = head if head.block else None
        exchange = self._exchange = Exchange(self, head)
        if self._gate.is_draining:
            exchange.keeps_alive = False
            if self._gate.is_past_drain:
                self.break_off(exchange, SHUTTING_DOWN)
                return
        if self._turns.take():
            self._runner.start(exchange)
        else:
            self._turns.wait(self._address or self, partial(self._runner.start_if_awaited, exchange))
        length = head.body_length
        if length is not None and length <= len(rest):
            if length:
                exchange.feed(rest[:length], is_last=True)
            if length < len(rest):
                self.data_received(rest[length:])
        else:
            self._body = body_reader(length)
            self._pace = BodyPace.of(self._gate.limits)
            if rest:
                self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        body, exchange = self._body, self._exchange
        if body is None or exchange is None:
            raise AssertionError("a body belongs to a request")
        try:
            content, rest = body.feed(data)
        except MalformedChunksError as error:
            self.break_off(exchange, RequestError("bad_request", str(error)))
            return
        if body.is_complete:
            self._body = None
        exchange.feed(content, is_last=body.is_complete)
        is_backlog = bool(rest) and not body.is_complete
        self._backlog = rest if is_backlog else b""
        self._rearm()
        if exchange.buffered > MAX_UNREAD_BYTES or is_backlog:
            self._pause_reading()
        if is_backlog and exchange.buffered <= MAX_UNREAD_BYTES:
            self._read_later()
        elif rest and not is_backlog:
            self.data_received(rest)

    def _read_later(self, shares: int = 1) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self._rearm()
            self._turns.wait(self._address or self, self._read_backlog, shares)

    def _read_backlog(self) -> None:
        self._awaits_turn = False
        backlog, self._backlog = self._backlog, b""
        if not backlog or self._body is None or self._exchange is None:
            return
        self._read_body(backlog)
        if not self._backlog and self._exchange.buffered <= MAX_UNREAD_BYTES:
            self.resume_reading()

    def _pause_reading(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    # Ending.

    def _refuse(self, error: RequestError, response: bytes | None = None) -> None:
        metrics.REFUSALS.labels(metrics.OTHER, error.code).inc()
        if not self.transport.is_closing():
            self.transport.write(response or render_error(error))
            self._linger()

    def _linger(self) -> None:
        """Closes in two steps (RFC 9112 section 9.6): bytes that come after a close reset it, and lose the response."""
        if not self.transport.can_write_eof():
            self._close()  # TLS has two steps of its own
            return
        self._linger_bytes = ending.MAX_LINGER_BYTES
        self._body = None
        self._unread = self._backlog = b""
        self.resume_reading()
        self.transport.write_eof()
        self._rearm()

    def _close(self) -> None:
        """Closes once everything is sent, and watches that it is sent."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            ending.cut_if_stuck(self.transport, self._deadline, self._gate.limits)

    def _close_idle(self) -> None:
        if self._exchange is not None:
            return  # a request came in time: that is cheaper to see here than to clear each deadline
        if self._gate.is_draining:
            self.transport = ending.announced(self.transport)
            self._deadline.set(ending.LINGER_SECONDS, self._close)
        else:
            self._close()

    def _time_out_head(self) -> None:
        if self._exchange is not None:
            return
        if self._unread == b"\r\n":
            self._close()  # an empty line after a request begins no other (RFC 9112 section 2.2)
        else:
            self._refuse(HEAD_TIMEOUT)

    def _time_out_body(self) -> None:
        if self._exchange is not None:
            self.break_off(self._exchange, BODY_TIMEOUT)

    def _rearm(self) -> None:
        """Sets the deadline for what the connection waits for now; an application has no deadline."""
        limits = self._gate.limits
        if self.is_congested or self.transport.is_closing():
            return  # `cut_if_stuck` has set it
        if self._linger_bytes is not None:
            self._deadline.set(ending.LINGER_SECONDS, self._close)
        elif self._exchange is not None:
            if self._exchange.awaits_body and not self._backlog:  # which waits for the gateway
                seconds = limits.body_idle_timeout_seconds
                if self._pace is not None:
                    seconds = min(seconds, self._pace.wait(self.loop.time()))
                self._deadline.set(seconds, self._time_out_body)
            else:
                self._deadline.clear()
        elif self._unread or self._is_fresh:
            self._deadline.set(limits.header_timeout_seconds, self._time_out_head)
        else:
            self._deadline.set(limits.keep_alive_seconds, self._close_idle)
