"""The connections to one target: last in, first out; at most so many; who comes later waits in line.

Every decision is made in memory, then the I/O is done. A slot is held from the decision to connect until `release`, and
each way out (a failed or cancelled connect, a cancelled or late wait, an ended exchange) gives it back exactly once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass

import structlog

from gateway.upstream.address import Address
from gateway.upstream.connection import Connection, Deadlines
from gateway.upstream.dialer import Dialer
from gateway.upstream.errors import connect_timed_out, not_connected, overloaded, unreachable

# Common servers close after 60 (nginx 75, AWS load balancers 60) seconds; half of that leaves no race worth naming.
# Those that say less (Node.js: 5) are believed.
IDLE_LIMIT_SECONDS = 30.0
# Past a full line a request is better off refused at once; the same depth as the kernel's usual accept backlog.
MAX_QUEUED = 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What a pool may hold and how long getting a connection may take."""

    max_connections: int
    connect_timeout_seconds: float
    queue_timeout_seconds: float
    idle_seconds: float = IDLE_LIMIT_SECONDS


class Pool:
    """All connections to one address. `busy` counts what runs, connects or waits there."""

    def __init__(
        self, address: Address, limits: PoolLimits, *, deadlines: Deadlines, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self._limits = limits
        self._deadlines = deadlines
        self._dialer = Dialer(address, self._new_connection, tls)
        self._leased = 0
        self._idle: list[Connection] = []
        self._queue: deque[asyncio.Future[Connection | None]] = deque()
        self._open: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._retired = False
        self._closing: asyncio.Future[None] | None = None

    @property
    def busy(self) -> int:
        return self._leased + len(self._queue)

    def __repr__(self) -> str:
        counts = f"{self._leased} leased, {len(self._idle)} idle, {len(self._queue)} queued, {len(self._open)} open"
        return f"<Pool {self.address} [{counts}]>"

    def take_idle(self, now: float) -> Connection | None:
        """The connection used last, if one is idle. It must be given back by `release`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_until > now:
                self._leased += 1
                return connection
            connection.close("idle for too long")
        return None

    async def connect_or_wait(self) -> Connection:
        """A new connection, or whichever is released first; UpstreamError when neither comes about in time.

        Must be given back by `release`.
        """
        if self._closing is not None:
            raise unreachable(f"{self.address} is no longer used")
        if self._leased < self._limits.max_connections:
            self._leased += 1
            return await self._connect()
        connection = await self._wait_in_line()
        if connection is not None and not connection.closed:
            return connection
        return await self._connect()

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Give a lease back: to the next in line, to the idle ones, or by closing the connection."""
        if not reusable or self._retired:
            connection.abort()
            self._free_slot()
        elif self._queue and (waiter := self._next_in_line()) is not None:
            waiter.set_result(connection)
        else:
            self._leased -= 1
            self._keep(connection)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def retired(self, connection: Connection) -> None:
        """The connection may not be used again; if it was idle it is so no longer."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: Connection) -> None:
        """The socket is gone."""
        self._open.discard(connection)
        if self._closing is not None and not self._open and not self._closing.done():
            self._closing.set_result(None)

    def retire(self) -> None:
        """Keep no connection from now on: what is idle is closed, what runs or still comes ends in its own time."""
        self._retired = True
        if self._reaper is not None:
            self._reaper.cancel()
        for connection in list(self._idle):
            connection.close(f"{self.address} is no longer used")

    async def close(self) -> None:
        """Close every connection, whatever runs on it, and wait until all sockets are gone. Nothing new is opened."""
        self.retire()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(unreachable(f"{self.address} is no longer used"))
        for connection in list(self._open):
            connection.close(f"{self.address} is no longer used")
        if self._open:
            await self._closing

    # Getting a connection.

    async def _connect(self) -> Connection:
        """Open a connection in a slot that is ours; on any way out but success the slot is given back."""
        try:
            async with asyncio.timeout(self._limits.connect_timeout_seconds):
                connection = await self._dialer.dial()
        except TimeoutError as error:
            self._free_slot()
            self._tell("not in time")
            seconds = self._limits.connect_timeout_seconds
            raise connect_timed_out(f"no connection to the upstream in {seconds:g} s") from error
        except OSError as error:  # refused, unroutable, DNS (gaierror), TLS (SSLError): all are OSErrors
            self._free_slot()
            self._tell(_reason(error))
            raise not_connected("no connection to the upstream") from error
        except BaseException:
            self._free_slot()
            raise
        if connection.closed or self._closing is not None:
            self.release(connection, reusable=False)
            raise not_connected(f"{self.address} closed the connection at once")
        return connection

    def _new_connection(self) -> Connection:
        return Connection(self, self._deadlines)

    async def _wait_in_line(self) -> Connection | None:
        """Hold a slot at the end: with a connection in it, or None to open one."""
        if len(self._queue) >= MAX_QUEUED:
            raise overloaded(f"{MAX_QUEUED} requests wait for {self.address}")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._queue.append(waiter)
        timer = loop.call_later(self._limits.queue_timeout_seconds, self._give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            # Cancelled after the hand-over but before we ran: what we were given goes to the next in line.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_on(waiter.result())
            raise
        finally:
            timer.cancel()
            if waiter in self._queue:
                self._queue.remove(waiter)

    def _give_up(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            seconds = self._limits.queue_timeout_seconds
            waiter.set_exception(overloaded(f"no connection to the upstream became free in {seconds:g} s"))

    def _tell(self, reason: str) -> None:
        """The operator, not the client: where upstreams are, and what they are called, is no client's business."""
        _log.warning("upstream_not_connected", target=str(self.address), reason=reason)

    def _hand_on(self, connection: Connection | None) -> None:
        if connection is None:
            self._free_slot()
        else:
            self.release(connection, reusable=not connection.closed)

    def _free_slot(self) -> None:
        waiter = self._next_in_line()
        if waiter is None:
            self._leased -= 1
        else:
            waiter.set_result(None)

    def _next_in_line(self) -> asyncio.Future[Connection | None] | None:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                return waiter
        return None

    # Idle connections.

    def _keep(self, connection: Connection) -> None:
        connection.idle_until = connection.loop.time() + self._idle_seconds_of(connection)
        self._idle.append(connection)
        if self._reaper is None:
            self._reap_at(connection.idle_until)

    def _idle_seconds_of(self, connection: Connection) -> float:
        """One second less than the server grants, so that its FIN does not cross our request."""
        granted = connection.keep_alive_seconds
        return self._limits.idle_seconds if granted is None else min(self._limits.idle_seconds, granted - 1.0)

    def _reap_at(self, due: float) -> None:
        self._reaper = asyncio.get_running_loop().call_at(due, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        now = asyncio.get_running_loop().time()
        for connection in [each for each in self._idle if each.idle_until <= now]:
            connection.close("idle for too long")
        if self._idle:
            self._reap_at(min(connection.idle_until for connection in self._idle))


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
