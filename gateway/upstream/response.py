"""One exchange as its consumer sees it: the head, the bytes that are here, and one way to let go."""

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
    """What a response asks of the connection that carries it."""

    loop: asyncio.AbstractEventLoop

    def resume(self) -> None: ...
    def abandon(self) -> None: ...
    def hand_over(self) -> asyncio.Transport | None: ...


class Response:
    """The answer of an upstream, of which at least the head is there.

    `headers` are lower-cased and end-to-end only; `content-length` is among them iff it frames the body (and on HEAD).
    `complete` means that the body has ended cleanly; bytes of it may still wait in `take`.
    """

    __slots__ = (
        "_body",
        "_carrier",
        "_head",
        "_known",
        "_on_end",
        "_reader",
        "_request",
        "_waiter",
        "complete",
        "error",
        "headers",
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
        self.reused = reused
        self.started_at = started_at
        self._carrier: Carrier | None = carrier
        self._on_end = on_end
        self._waiter: asyncio.Future[None] | None = None
        self._request = request
        self._known = known
        self._head: ResponseHead | None = None
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
        """Everything that is buffered, b"" if nothing. Reading from the upstream goes on where it was paused."""
        if self._reader is None:
            data, self._body = self._body, b""
            return data
        data = self._reader.take()
        if data and self._carrier is not None:
            self._carrier.resume()
        return data

    async def more(self) -> None:
        """Wait until `take` has something or the body is complete.

        Raises UpstreamError when the body breaks off or times out, and whatever the request body's iterator raised.
        """
        while not self.buffered and not self.complete:
            await self._changed()

    async def headed(self) -> None:
        """Wait for the head; raises as `more` does, and then has let go."""
        try:
            while not self.status or self.error is not None:
                await self._changed()
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> ResponseHead:
        """The head as a whole, which may be that of earlier answers too. RuntimeError while there is none."""
        if self._head is None:
            raise RuntimeError("the head has not come")
        return self._head

    def switched(self) -> Wire:
        """After 101: the connection, to be taken over at once. It stays leased until it is lost or this is closed."""
        first = self.take()
        return Wire(None if self._carrier is None else self._carrier.hand_over(), first)

    def close(self) -> None:
        """Let go. A complete and clean connection is in its pool again already; any other is closed here."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.abandon()
            self._wake()
            self._ended()

    # The connection's side.

    @property
    def is_begun(self) -> bool:
        """Whether a byte of it has come."""
        return self._reader is not None or self._head is not None

    @property
    def reader(self) -> ResponseReader:
        """Reads it, from its first byte on; there is none for an answer that `take_whole` has taken."""
        if self._reader is None:
            self._reader = ResponseReader(self._request.method, self._request.upgrade, known=self._known)
        return self._reader

    def take_whole(self, data: bytes) -> ResponseHead | None:
        """Takes an answer that comes whole under a head that is known, which most do: 4 µs less than reading it."""
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
        self._take_head(known)
        return known

    def advance(self) -> None:
        head = self.reader.head
        if head is not None and self._head is None:
            self._take_head(head)
        self._wake()

    def finish(self) -> None:
        """The body has ended; the connection is no longer ours."""
        self._carrier = None
        self.complete = True
        if self._reader is None:
            self._wake()
        else:
            self.advance()
        self._ended()

    def fail(self, error: BaseException) -> None:
        self._carrier = None
        self.error = error
        if self._reader is not None:
            self._reader.discard_parser()
        self._wake()
        self._ended()

    def _take_head(self, head: ResponseHead) -> None:
        self._head = head
        self.headers = head.headers
        self.status = head.status

    def _ended(self) -> None:
        if self._on_end is not None:
            self._on_end(self)

    def _changed(self) -> asyncio.Future[None]:
        """What resolves when there is more to see; one waits at a time."""
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
