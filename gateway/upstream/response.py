"""The response of an upstream, as its consumer reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.http.fields import Header
from gateway.http.tunnel import Wire
from gateway.upstream.request_head import Request
from gateway.upstream.response_head import ResponseHead
from gateway.upstream.response_reader import ResponseReader


class Carrier(Protocol):
    """The connection, as the response uses it."""

    loop: asyncio.AbstractEventLoop

    def resume(self) -> None: ...
    def abandon(self) -> None: ...
    def hand_over(self) -> asyncio.Transport | None: ...


class Response:
    """A response, of which at least the head has come once it has a `status`.

    `head` is what earlier responses with the same bytes share. `headers` are lower-cased and end-to-end only, with
    `content-length` where it frames the body, and on HEAD. `complete` means that the body has ended cleanly; `take` may
    still have bytes of it.
    """

    __slots__ = (
        "_body",
        "_carrier",
        "_known",
        "_on_end",
        "_reader",
        "_request",
        "_waiter",
        "complete",
        "error",
        "head",
        "headers",
        "on_failure",
        "reused",
        "started_at",
        "status",
    )

    def __init__(
        self,
        request: Request,
        carrier: Carrier,
        *,
        known: ResponseHead | None,
        reused: bool,
        started_at: float,
        on_end: OnEnd | None,
    ) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.complete = False
        self.error: BaseException | None = None
        self.on_failure: Callable[[BaseException], None] | None = None  # for a consumer that waits for something else
        self.reused = reused
        self.started_at = started_at
        self._carrier: Carrier | None = carrier
        self._on_end = on_end
        self._waiter: asyncio.Future[None] | None = None
        self._request = request
        self._known = known
        self.head: ResponseHead  # once it has come
        self._body = b""
        self._reader: ResponseReader | None = None

    def __repr__(self) -> str:
        state = "complete" if self.complete else "broken" if self.error else "running" if self._carrier else "closed"
        return f"<Response {self.status} {state}, {self.buffered} bytes buffered>"

    @property
    def buffered(self) -> int:
        """How many bytes `take` would give."""
        return len(self._body) if self._reader is None else self._reader.buffered

    def take(self) -> bytes:
        """Everything that is buffered, which may be nothing. Paused reading continues."""
        if self._reader is None:
            data, self._body = self._body, b""
            return data
        data = self._reader.take()
        if data and self._carrier is not None:
            self._carrier.resume()
        return data

    async def wait_for_more(self) -> None:
        """Waits until `take` has something or the body is complete.

        Raises UpstreamError when the body breaks off or times out, and what the request body's iterator raised.
        """
        while not self.buffered and not self.complete:
            await self.changed()

    def hand_over(self) -> Wire:
        """After 101: the connection, to be taken over at once; leased until it is lost or the response is closed."""
        first = self.take()
        return Wire(None if self._carrier is None else self._carrier.hand_over(), first)

    def close(self) -> None:
        """Closes the connection, unless a clean and complete exchange has already returned it to its pool."""
        carrier, self._carrier = self._carrier, None
        self.error = None  # whose traceback has the response: a cycle, which would stay until the collector runs
        if carrier is not None:
            carrier.abandon()
            self._wake()
            self._ended()

    # Called by the connection.

    @property
    def is_begun(self) -> bool:
        """Whether a byte of the response has come."""
        return self._reader is not None or self.status != 0

    @property
    def reader(self) -> ResponseReader:
        """Reads the response from its first byte; not to be used if `take_whole` has read it."""
        if self._reader is None:
            self._reader = ResponseReader(self._request.method, self._request.upgrade, known=self._known)
        return self._reader

    def take_whole(self, data: bytes) -> ResponseHead | None:
        """Takes a response that comes whole under the head of the last one, as most do: saves 4 µs."""
        known, request = self._known, self._request
        if (
            known is None
            or self._reader is not None
            or len(data) - len(known.raw) != known.length
            or not data.startswith(known.raw)
            or request.method == b"HEAD"
            or request.upgrade is not None
        ):
            return None
        self._body = data[len(known.raw) :]
        self.head, self.headers, self.status = known, known.headers, known.status
        return known

    def advance(self) -> None:
        head = self.reader.head
        if head is not None and not self.status:
            self.head, self.headers, self.status = head, head.headers, head.status
        self._wake()

    def finish(self) -> None:
        """The body has ended, and the connection is released."""
        self._carrier = None
        self.complete = True
        if self._reader is None:
            self._wake()
        else:
            self.advance()
        if self._on_end is not None:
            self._on_end(self)

    def fail(self, error: BaseException) -> None:
        self._carrier = None
        self.error = error
        if self._reader is not None:
            self._reader.discard_parser()
        self._wake()
        self._ended()
        if self.on_failure is not None:
            self.on_failure(error)

    def _ended(self) -> None:
        if self._on_end is not None:
            self._on_end(self)

    def changed(self) -> asyncio.Future[None]:
        """Resolves at the next change of the response; one consumer waits at a time. Raises as `wait_for_more` does."""
        if self.error is not None:
            raise self.error
        if self._carrier is None:
            raise RuntimeError("the response has been closed")
        self._waiter = waiter = self._carrier.loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


OnEnd = Callable[[Response], None]
