"""One request and its response as ASGI, between the application and the connection.

The application also sees the client through it: whether the client has left, and a callback for when it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gateway.http.fields import NO_FIELDS, Header, HeaderBlock
from gateway.http.framing import BODILESS_STATUSES, Framing
from gateway.http.tunnel import Wire
from gateway.listener.ending import BEGINNING, LEADING_ZERO, cut
from gateway.listener.error_response import RequestError, render_error
from gateway.listener.request_head import RequestHead
from gateway.listener.response_head import render, render_switch, render_whole

# Copying so much costs less than handing the kernel several pieces; more would be in memory twice for a slow client.
MAX_JOINED_BYTES = 16 * 1024
_DISCONNECT = {"type": "http.disconnect"}
_NO_FRAMING = Framing.NONE  # looking up a member takes 50 ns
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # RFC 9110 section 15.2.1


class Connection(Protocol):
    """The connection, as its exchange uses it."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    is_congested: bool

    async def drained(self) -> None:
        """Returns when the client has taken what was written, or has left."""

    def resume_reading(self) -> None:
        """The application has taken what there is of the body."""

    def await_body(self) -> None:
        """The application waits for more of the body."""

    def finish(self, exchange: Exchange) -> None:
        """The response is written."""

    def hand_over(self) -> Wire:
        """Gives the transport away, to one who sets deadlines and passes `connection_lost` on."""


class Exchange:
    """`is_disconnected`: the client has left, or was cut. `keeps_alive`: another request may follow this one.

    The application may keep a value in `application_slot`: it is the same for as long as the client repeats its fields,
    but for `varying_fields` and `key_fields`, which are those of this request.
    Whatever the response is, it carries `added_fields` besides its own.
    """

    __slots__ = (
        "_changed",
        "_chunks",
        "_connection",
        "_expects_continue",
        "_framing",
        "_is_begun",
        "_is_handed_over",
        "_remaining",
        "_rendered",
        "added_fields",
        "application_slot",
        "awaits_body",
        "buffered",
        "head",
        "is_complete",
        "is_disconnected",
        "is_received",
        "is_started",
        "keeps_alive",
        "key_fields",
        "on_disconnect",
        "task",
        "varying_fields",
    )

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        self.head = head
        self.added_fields = NO_FIELDS
        self.is_disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        self.task: asyncio.Task[Any] | None = None
        self.keeps_alive = head.keeps_alive
        self.application_slot = head.application_slot
        self.varying_fields = head.varying_fields
        self.key_fields = head.key_fields
        self.is_received = head.body_length == 0
        self.awaits_body = False
        self.is_started = False
        self.is_complete = False
        self.buffered = 0
        self._connection = connection
        self._expects_continue = head.expects_continue
        self._chunks: list[bytes] = []
        self._is_begun = self._is_handed_over = False
        self._changed: asyncio.Event | None = None
        self._framing = _NO_FRAMING
        self._remaining = 0
        self._rendered = b""

    @property
    def is_head(self) -> bool:
        return self.head.method == "HEAD"

    @property
    def probe(self) -> bytes | None:
        """What may be sent to the client now whatever comes next; None where nothing may, or the request is not whole.

        Nothing may be within a body of a length.
        """
        if not self.is_received:
            return None
        if not self.is_started or self._rendered:
            return BEGINNING
        return LEADING_ZERO if self._framing is Framing.CHUNKED else None

    # Called by the connection, and for the client.

    def feed(self, chunk: bytes, *, is_last: bool) -> None:
        self._expects_continue = False  # the client did not wait for it
        self.is_received = is_last
        self.awaits_body = False
        if self.is_complete:
            return
        if chunk:
            self._chunks.append(chunk)
            self.buffered += len(chunk)
        self._wake()

    def leave(self) -> None:
        """The client has left."""
        if self.is_disconnected:
            return
        self.is_disconnected = True
        self._wake()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def abort(self) -> None:
        """Cuts the connection, so that the client sees an incomplete response."""
        self.is_disconnected = True
        self._wake()
        cut(self._connection.transport, hard=self._framing is Framing.UNTIL_CLOSE)

    def render_error(self, error: RequestError) -> bytes:
        """The response to a request that the application will not answer."""
        sent_id = dict(self.head.headers).get(b"x-request-id", b"")
        return render_error(error, self.added_fields, has_body=not self.is_head, sent_id=sent_id)

    def upgrade(self, protocol: bytes, headers: Iterable[Header]) -> Wire:
        """Responds with 101, without ASGI, and gives the connection, to be taken over at once."""
        if self.is_started or not self.is_received or self.is_disconnected:
            raise RuntimeError("the request has not come whole, or is answered already")
        self._connection.transport.write(render_switch(protocol, headers))
        self.is_started = self.is_complete = True
        self.keeps_alive = False
        return self._connection.hand_over()

    # Called by the application.

    def answer(self, status: int, fields: HeaderBlock, body: bytes) -> None:
        """Sends a whole response at once, without ASGI, which saves 4 µs.

        `fields` are all but Content-Length and Connection, which are generated.
        """
        if self.is_disconnected:
            return
        if self.is_started:
            raise RuntimeError("the request has been answered")
        if self.added_fields:
            fields = HeaderBlock(fields + self.added_fields)
        self.keeps_alive = keeps_alive = self.keeps_alive and self.is_received
        has_body = status not in BODILESS_STATUSES
        head = render_whole(status, fields, len(body) if has_body else None, keeps_alive=keeps_alive)
        if not has_body or self.head.method == "HEAD":
            self._connection.transport.write(head)
        elif len(body) <= MAX_JOINED_BYTES:
            self._connection.transport.write(head + body)
        else:
            self._connection.transport.writelines((head, body))
        self.is_started = True
        self._completed()

    def take_body(self) -> bytes | None:
        """The body, if all of it has come; None if it has not, or ASGI has received a part."""
        if not self.is_received or self._is_begun or self.is_disconnected or self.is_complete:
            return None
        return self._take()

    async def receive(self) -> dict[str, Any]:
        if self._expects_continue and not (self.is_received or self.is_started or self.is_disconnected):
            self._expects_continue = False
            self._connection.transport.write(_CONTINUE)
        while not (self.is_disconnected or self.is_complete):
            if self._chunks or (self.is_received and not self._is_handed_over):
                return self._hand_over()
            await self._change()
        return _DISCONNECT.copy()

    async def send(self, message: Any) -> None:
        if self.is_disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.is_started and not self.is_complete:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
        elif kind == "http.response.start" and not self.is_started:
            self._start(message)
        else:
            raise RuntimeError(f"{kind!r} is out of turn")
        # After writing: before it, a second piece would wait behind one that a slow client does not take.
        if self._connection.is_congested and not (self.is_disconnected or self.is_complete):
            await self._connection.drained()

    def _take(self) -> bytes:
        chunks = self._chunks
        self._chunks = []
        self.buffered = 0
        self._is_begun = True
        self._is_handed_over = self.is_received
        self._connection.resume_reading()  # even at the end: a paused transport does not notice that the client leaves
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hand_over(self) -> dict[str, Any]:
        body = self._take()
        return {"type": "http.request", "body": body, "more_body": not self.is_received}

    def _start(self, message: Any) -> None:
        """A request that was not read to its end is the last: nothing says where the next one begins."""
        head = render(
            message["status"],
            message.get("headers", ()),
            method=self.head.method,
            is_http_1_0=self.head.is_http_1_0,
            keeps_alive=self.keeps_alive and self.is_received,
        )
        self.is_started = True
        self.keeps_alive = head.keeps_alive
        self._framing = head.framing
        self._remaining = head.length
        # Most responses are complete in this turn of the loop: head and body then go out in one system call.
        rendered = head.rendered
        self._rendered = rendered[:-2] + self.added_fields + b"\r\n" if self.added_fields else rendered
        self._connection.loop.call_soon(self._send_head)

    def _send_head(self) -> None:
        head, self._rendered = self._rendered, b""
        if head and not self.is_disconnected:
            self._connection.transport.write(head)

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        framing = self._framing
        pieces = []
        if self._rendered:
            pieces.append(self._rendered)
            self._rendered = b""
        if framing is Framing.LENGTH:
            self._remaining -= len(body)
            if self._remaining < 0 or (is_last and self._remaining):
                self.abort()
                raise RuntimeError("the response's body is not as long as its Content-Length")
        if framing is Framing.CHUNKED:
            if body:
                pieces += (b"%x\r\n" % len(body), body, b"\r\n")
            if is_last:
                pieces.append(b"0\r\n\r\n")
        elif body and framing is not Framing.NONE:
            pieces.append(body)
        if len(body) <= MAX_JOINED_BYTES:
            self._connection.transport.write(b"".join(pieces))
        else:
            self._connection.transport.writelines(pieces)
        if is_last:
            self._completed()

    def _completed(self) -> None:
        self.is_complete = True
        self._chunks.clear()
        self._wake()
        self._connection.finish(self)

    async def _change(self) -> None:
        """Waits until a part of the body arrives, the response is complete or the client leaves."""
        if self._changed is None:
            self._changed = asyncio.Event()
        self._changed.clear()
        if not self.is_received:
            self.awaits_body = True
            self._connection.await_body()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
