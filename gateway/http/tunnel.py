"""Passes bytes both ways between a client and an upstream that have switched protocols.

What one side receives is written to the other. Reading from a side stops while its peer is slow, so that each buffer
holds at most one high-water mark and one read. When one side ends, both end.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

# While a tunnel closes, its progress is checked so often, for a minute at most.
CLOSING_SECONDS = 5.0
MAX_CLOSING_CHECKS = 12


class Wire(NamedTuple):
    """A transport to be taken over, None if its peer has closed it, and the bytes already read from it."""

    transport: asyncio.Transport | None
    first: bytes


class Tunnel:
    """Takes both transports over. Their former protocols get `connection_lost`, and no other call.

    The tunnel ends after `idle_timeout_seconds` without a byte in either direction. Await `ended`, then `close`, and
    call `abort` in any case.
    """

    def __init__(self, client: Wire, upstream: Wire, *, idle_timeout_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_timeout_seconds = idle_timeout_seconds
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._lost = asyncio.Event()
        self._unsent_bytes = 0
        self.moved_at = self._loop.time()
        self._client, self._upstream = _Side(self, client.transport), _Side(self, upstream.transport)
        self._client.peer, self._upstream.peer = self._upstream, self._client
        self._timer = self._loop.call_at(self.moved_at + idle_timeout_seconds, self._check_idle)
        for side, first in ((self._client, client.first), (self._upstream, upstream.first)):
            if first:
                side.data_received(first)
        if self._client.is_lost or self._upstream.is_lost:
            self.end()

    def __repr__(self) -> str:
        return f"<Tunnel {'ended' if self.is_over else 'open'}, {self.bytes_up} bytes up, {self.bytes_down} down>"

    @property
    def is_over(self) -> bool:
        return self._end.done()

    @property
    def bytes_up(self) -> int:
        """Bytes from the client to the upstream."""
        return self._client.passed_bytes

    @property
    def bytes_down(self) -> int:
        """Bytes from the upstream to the client."""
        return self._upstream.passed_bytes

    async def ended(self) -> None:
        """Returns when a side has ended or the tunnel was idle for too long. No byte passes after that."""
        await self._end

    async def close(self) -> None:
        """Flushes and closes both sides; returns when both are closed or make no progress."""
        self._client.finish()
        self._upstream.finish()
        for _ in range(MAX_CLOSING_CHECKS):
            unsent_bytes = self._buffered_bytes()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_SECONDS):
                    await self._lost.wait()
            if self._lost.is_set() or self._buffered_bytes() == unsent_bytes:
                return

    def abort(self) -> None:
        """Closes what is still open, without flushing."""
        self.end()
        self._client.abort()
        self._upstream.abort()

    # Called by the sides.

    def end(self) -> None:
        self._timer.cancel()
        if not self._end.done():
            self._end.set_result(None)

    def lost(self) -> None:
        self.end()
        if self._client.is_lost and self._upstream.is_lost:
            self._lost.set()

    def _check_idle(self) -> None:
        """A buffer that empties counts as progress: a slow reader is not idle."""
        now = self._loop.time()
        unsent_bytes = self._buffered_bytes()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self.moved_at = now
        due = self.moved_at + self._idle_timeout_seconds
        if due > now:
            self._timer = self._loop.call_at(due, self._check_idle)
        else:
            self.end()

    def _buffered_bytes(self) -> int:
        return self._client.buffered_bytes() + self._upstream.buffered_bytes()


class _Side(asyncio.Protocol):
    """One of the two transports: its peer writes what it receives."""

    __slots__ = ("_before", "_now", "_transport", "_tunnel", "is_lost", "passed_bytes", "peer")

    peer: _Side

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport | None) -> None:
        self._tunnel = tunnel
        self._transport = transport
        self.is_lost = transport is None
        self.passed_bytes = 0
        self._before: asyncio.BaseProtocol | None = None
        self._now = asyncio.get_running_loop().time
        if transport is not None:
            self._before = transport.get_protocol()
            self.pause()  # uvloop reads as it began, by the former protocol, until reading is resumed
            transport.set_protocol(self)
            self.resume()

    # Called by the transport.

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        if tunnel.is_over:
            return
        tunnel.moved_at = self._now()
        self.passed_bytes += len(data)
        self.peer.write(data)

    def pause_writing(self) -> None:
        self.peer.pause()

    def resume_writing(self) -> None:
        self.peer.resume()

    def eof_received(self) -> None:
        """The transport closes by itself: a side that ends one direction has left, as for the listener."""
        self._tunnel.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        before, self._before = self._before, None
        self._tunnel.lost()
        del self._tunnel, self.peer  # which have this side: such a cycle would stay until the collector runs
        if before is not None:
            before.connection_lost(exc)

    # Called by the tunnel and the peer.

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def buffered_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None and not self.is_lost else 0

    def finish(self) -> None:
        """Ends one direction and leaves the other open: a close with unread bytes would reset what was sent."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.resume()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def abort(self) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.abort()
