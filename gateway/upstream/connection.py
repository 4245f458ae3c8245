"""One connection to a target: carries one exchange at a time, and decides whether it can carry another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Hashable
from dataclasses import dataclass
from typing import Protocol, cast

from gateway.upstream.errors import BodyLengthError, UpstreamError, broken, not_taken, timed_out, unreachable
from gateway.upstream.request_head import Request
from gateway.upstream.response import OnEnd, Response
from gateway.upstream.response_head import ResponseHead

# Per read. uvloop would read 250 KiB, of which three wait for a client that reads slowly.
READ_BYTES = 32 * 1024
# Above it reading stops until the consumer has taken the bytes.
HIGH_WATER_BYTES = 16 * 1024
# Up to this size one write of head and body is cheaper than two.
_JOINED_BODY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long an exchange may make no progress, by phase."""

    first_byte_seconds: float
    idle_seconds: float


class ConnectionOwner(Protocol):
    """The pool, as its connections use it."""

    def release(self, connection: Connection, *, reusable: bool) -> None: ...
    def opened(self, connection: Connection) -> None: ...
    def retired(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...
    def paced_by_client_no_longer(self, connection: Connection) -> None: ...


# One for all connections: its bytes are copied before the loop reads again. A process has one loop.
_read_into = memoryview(bytearray(READ_BYTES))


class Connection(asyncio.BufferedProtocol):
    """Every byte belongs to the running exchange; a byte without one retires the connection."""

    __slots__ = (
        "_deadlines",
        "_known_head",
        "_owner",
        "_reading_paused",
        "_sent",
        "_timer",
        "_timer_at",
        "_total_at",
        "_transport",
        "_unsent_bytes",
        "_upload",
        "_writable",
        "account",
        "closed",
        "exchanges",
        "idle_until",
        "is_client_paced",
        "keep_alive_seconds",
        "loop",
        "progress_at",
        "response",
    )

    def __init__(self, owner: ConnectionOwner, deadlines: Deadlines) -> None:
        self._owner = owner
        self._deadlines = deadlines
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._upload: asyncio.Task[None] | None = None
        self._sent = True
        self._writable: asyncio.Future[None] | None = None
        self._unsent_bytes = 0
        self._reading_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.progress_at = 0.0
        self._total_at = 0.0
        self._known_head: ResponseHead | None = None
        self.account: Hashable = None  # that leases it
        self.is_client_paced = False  # whether the exchange is an unfinished upload or a tunnel
        self.response: Response | None = None
        self.closed = False
        self.exchanges = 0
        self.idle_until = 0.0
        self.keep_alive_seconds: int | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self.response is None else "active"
        return f"<Connection {state}, {self.exchanges} exchanges>"

    def start(self, head: bytes, request: Request, *, total_at: float, on_end: OnEnd | None) -> Response:
        """Writes the rendered head and the body; gives the response to come."""
        transport = self._transport
        if transport is None or self.response is not None:
            raise RuntimeError(f"{self!r} cannot start an exchange")
        now = self.progress_at = self.loop.time()
        self._total_at = total_at
        request.is_sent = True
        response = Response(
            request, self, known=self._known_head, reused=self.exchanges > 0, started_at=now, on_end=on_end
        )
        self.response = response
        self.exchanges += 1
        if request.body is None:
            self._sent = True
            transport.write(head)
        else:
            self._send(transport, head, request.body, length=request.content_length)
        due = min(now + self._deadlines.first_byte_seconds, total_at)
        if self._timer is None or due < self._timer_at:
            self._arm(due)
        return response

    def abort(self) -> None:
        """Closes without flushing: unsent bytes would keep the socket open if the peer has stopped reading."""
        self.closed = True
        self._stop_timer()
        self._stop_upload()
        if self._transport is not None:
            self._transport.abort()

    def close(self, reason: str) -> None:
        """Closes on the gateway's side; a running exchange fails with the reason."""
        if self.response is not None:
            self._fail(unreachable(reason))
        else:
            self._retire()

    def discard(self) -> None:
        """For a connect that failed or was cancelled. uvloop may then close an established socket without calling
        `connection_lost`, and the pool would count the connection forever.
        """
        self.abort()
        self._owner.lost(self)

    def is_untaken(self, since: float) -> bool:
        """Whether the client has taken nothing of what waits for it, not since then."""
        return self._reading_paused and self.progress_at <= since

    def end_untaken(self) -> None:
        self._fail(not_taken("while others needed its connection"))

    # Called by the response.

    def resume(self) -> None:
        if self._reading_paused:
            self._unpause()
            self._progressed(self._deadlines.idle_seconds)

    def abandon(self) -> None:
        self.response = None
        self._owner.release(self, reusable=False)

    def hand_over(self) -> asyncio.Transport | None:
        """Gives the transport to one who sets deadlines and passes `connection_lost` on."""
        self._stop_timer()
        self._unpause()
        return self._transport

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the buffer is what bounds a read
        return _read_into

    def buffer_updated(self, nbytes: int) -> None:
        data, response = bytes(_read_into[:nbytes]), self.response
        if response is None:
            self._retire()
            return
        head = response.take_whole(data)
        if head is not None:
            self._finish(response, head, is_clean=True)
            return
        reader = response.reader
        try:
            reader.feed(data)
        except UpstreamError as error:
            self._fail(error)
            return
        if reader.complete:
            self._finish(response, reader.head, is_clean=reader.clean)
            return
        if reader.buffered > HIGH_WATER_BYTES:
            self._pause()
        if reader.status:
            self._progressed(self._deadlines.idle_seconds)
            response.advance()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._transport = None
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()
        self._unsent_bytes = self._buffered_bytes()
        self._progressed(self._deadlines.idle_seconds)

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        self._progressed(self._deadlines.first_byte_seconds)

    # The end of an exchange.

    def _finish(self, response: Response, head: ResponseHead | None, *, is_clean: bool) -> None:
        if head is None:
            raise AssertionError("a finished response has a head")
        unsent_bytes = self._transport.get_write_buffer_size() if self._transport is not None else 0
        reusable = head.keep_alive and is_clean and self._sent and not self.closed and not unsent_bytes
        self.response = None
        self.keep_alive_seconds = head.keep_alive_seconds
        if head.raw:
            self._known_head = head
        if self._upload is not None:
            self._stop_upload()
        if reusable and self._reading_paused:
            self._unpause()
        response.finish()
        self._owner.release(self, reusable=reusable)

    def _fail(self, error: BaseException) -> None:
        response, self.response = self.response, None
        if response is None:
            return
        response.fail(error)
        self._owner.release(self, reusable=False)

    def _ended(self, exc: Exception | None) -> None:
        """The peer has closed or reset: the running exchange is complete or broken."""
        response = self.response
        self.closed = True
        if response is None:
            self._retire()
        elif exc is not None or not response.is_begun:
            self._fail(broken(exc, is_begun=response.is_begun))
        else:
            try:
                response.reader.feed_eof()
            except UpstreamError as error:
                self._fail(error)
            else:
                self._finish(response, response.reader.head, is_clean=response.reader.clean)

    def _retire(self) -> None:
        """The connection may carry no further exchange."""
        self.abort()
        self._owner.retired(self)

    # Sending.

    def _send(
        self, transport: asyncio.Transport, head: bytes, body: bytes | AsyncIterable[bytes], *, length: int | None
    ) -> None:
        self._sent = isinstance(body, bytes) or length == 0
        if not isinstance(body, bytes):
            transport.write(head)
            self._upload = self.loop.create_task(self._send_stream(body, length))
            self._upload.add_done_callback(self._upload_ended)
        elif len(body) <= _JOINED_BODY_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    async def _send_stream(self, body: AsyncIterable[bytes], length: int | None) -> None:
        sent_bytes = 0
        async for chunk in body:
            if not chunk:
                continue
            sent_bytes += len(chunk)
            if length is not None and sent_bytes > length:
                raise BodyLengthError(f"the request body is longer than its {length} bytes")
            self._write_chunk(chunk, chunked=length is None)
            if sent_bytes == length:
                self._body_sent()  # the end of the iterator may wait for the client
            if self._writable is not None:
                await self._writable
            del chunk  # which would stay in memory for as long as the next one does not come
        if length is None:
            self._write(b"0\r\n\r\n")
        elif sent_bytes < length:
            raise BodyLengthError(f"the request body ended after {sent_bytes} of its {length} bytes")

    def _write_chunk(self, chunk: bytes, *, chunked: bool) -> None:
        if not chunked:
            self._write(chunk)
        elif self._transport is not None:
            self._transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _upload_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if task is not self._upload:
            return  # stopped, because its exchange has ended
        self._upload = None
        if task.cancelled() or error is not None:
            self._fail(error or unreachable("the request body was cancelled"))
            return
        if not self._sent:
            self._body_sent()

    def _body_sent(self) -> None:
        self._sent = True
        self._progressed(self._deadlines.first_byte_seconds)
        self._owner.paced_by_client_no_longer(self)

    def _stop_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()

    # Flow control and time.

    def _pause(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _unpause(self) -> None:
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def _buffered_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _progressed(self, limit_seconds: float) -> None:
        self.progress_at = self.loop.time()
        if self.response is not None:
            self._arm(min(self.progress_at + limit_seconds, self._total_at))

    def _arm(self, due: float) -> None:
        """Makes the timer fire by `due`. It moves only to fire earlier; one that fires too early is set again."""
        timer = self._timer
        if timer is not None:
            if self._timer_at <= due:
                return
            timer.cancel()
        self._timer_at = due
        self._timer = self.loop.call_at(due, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self.response is None:
            return
        now = self.loop.time()
        phase, limit_seconds = self._phase()
        due = min(self.progress_at + limit_seconds, self._total_at)
        if due > now:
            self._arm(due)
        elif self._total_at <= now:
            is_untaken = self._sent and self._reading_paused
            error = (
                not_taken("within the total timeout")
                if is_untaken
                else timed_out("the exchange took longer than its total timeout")
            )
            error.is_clients_doing = limit_seconds == float("inf")
            self._fail(error)
        else:
            self._fail(timed_out(f"{phase} for {limit_seconds:g} seconds"))

    def _phase(self) -> tuple[str, float]:
        """What the exchange waits for, and for how long at most; a slow client is not the fault of the upstream."""
        response = self.response
        if self._writable is not None:
            unsent_bytes = self._buffered_bytes()
            if unsent_bytes != self._unsent_bytes:
                self._unsent_bytes = unsent_bytes
                self.progress_at = self.loop.time()
            return "the upstream read nothing of the request", self._deadlines.idle_seconds
        if not self._sent or self._reading_paused:
            return "waiting for the client", float("inf")
        if response is not None and response.status:
            return "the upstream sent nothing more of its response", self._deadlines.idle_seconds
        return "the upstream sent no response head", self._deadlines.first_byte_seconds

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
