"""The connections to one target: a bounded number, last in first out, with a queue for requests above it.

Decisions are made before the I/O. A slot is leased from the decision to connect until `release`, and each way out (a
failed or cancelled connect, a cancelled or late wait, an ended exchange) returns it exactly once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Hashable
from dataclasses import dataclass

import structlog

from gateway.upstream.address import Address
from gateway.upstream.connection import Connection, Deadlines
from gateway.upstream.dialer import Dialer
from gateway.upstream.errors import connect_timed_out, not_connected, overloaded, unreachable
from gateway.upstream.shares import Shares
from gateway.upstream.waiting import MAX_QUEUED, Waiter, Waiting

# Common servers close idle connections after 60 seconds or more (nginx 75, AWS load balancers 60); half of that hardly
# ever races with their FIN. Servers that announce less (Node.js: 5) are believed.
IDLE_LIMIT_SECONDS = 30.0
# A response of which the client has taken nothing for so long may be ended for others. As long as two pieces at 1 MB/s.
UNTAKEN_SECONDS = 0.1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections a pool opens, in all and for an account, how long it waits for one and keeps an idle one."""

    max_connections: int
    connect_timeout_seconds: float
    queue_timeout_seconds: float
    idle_seconds: float = IDLE_LIMIT_SECONDS
    max_connections_per_account: int | None = None
    max_share_client_paced: float = 0.5


class Pool:
    """All connections to one address. `busy` counts requests that run, connect or wait.

    An account that has its share waits for its own connections, while others take what is free. What lasts as long as
    its client likes, an unfinished upload or a tunnel, has a share of the connections for all of its kind; a response
    that its client does not take is ended once others need the connection.
    """

    def __init__(
        self, address: Address, limits: PoolLimits, *, deadlines: Deadlines, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self._limits = limits
        self._deadlines = deadlines
        self._dialer = Dialer(address, self._new_connection, tls)
        self._leases = Shares(limits.max_connections, limits.max_connections_per_account or limits.max_connections)
        self._client_paced = self._leases.part(limits.max_share_client_paced)
        self._idle: list[Connection] = []
        self._queue = Waiting()
        self._open: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._retired = False
        self._closing: asyncio.Future[None] | None = None

    @property
    def busy(self) -> int:
        return self._leases.count + len(self._queue)

    def __repr__(self) -> str:
        counts = (
            f"{self._leases.count} leased, {len(self._idle)} idle, {len(self._queue)} queued, {len(self._open)} open"
        )
        return f"<Pool {self.address} [{counts}]>"

    def take_idle(self, now: float, account: Hashable = None, *, is_client_paced: bool = False) -> Connection | None:
        """The idle connection that was used last, or None. The caller must `release` it."""
        leases = self._leases
        if (is_client_paced or leases.count >= leases.of_account) and not self._may_lease(
            account, is_client_paced=is_client_paced
        ):
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_until > now:
                leases.lease(account)
                connection.account = account
                if is_client_paced:
                    self._client_paced.lease(account)
                    connection.is_client_paced = True
                return connection
            connection.close("idle for too long")
        return None

    async def connect_or_wait(self, account: Hashable = None, *, is_client_paced: bool = False) -> Connection:
        """A new connection, or one that is released meanwhile; UpstreamError when there is neither in time.

        The caller must `release` it.
        """
        if self._closing is not None:
            raise unreachable(f"{self.address} is no longer used")
        if self._may_lease(account, is_client_paced=is_client_paced):
            self._lease(account, is_client_paced=is_client_paced)
            return await self._connect(account, is_client_paced=is_client_paced)
        connection = await self._wait_in_queue(account, is_client_paced=is_client_paced)
        if connection is not None and not connection.closed:
            return connection
        return await self._connect(account, is_client_paced=is_client_paced)

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Returns a lease: to the first waiter, to the idle connections, or by closing the connection."""
        self._leases.release(connection.account)
        if connection.is_client_paced:
            connection.is_client_paced = False
            self._client_paced.release(connection.account)
        if not reusable or self._retired:
            connection.abort()
        else:
            idle_seconds, granted = self._limits.idle_seconds, connection.keep_alive_seconds
            if granted is not None:  # one second less, so that the server's FIN does not cross a request
                idle_seconds = min(idle_seconds, granted - 1.0)
            connection.idle_until = connection.loop.time() + idle_seconds
            self._idle.append(connection)
            if self._reaper is None:
                self._reap_at(connection.idle_until)
        if self._queue.places.count:
            self._serve_queue()

    def paced_by_client_no_longer(self, connection: Connection) -> None:
        """The upload on this connection is finished."""
        if connection.is_client_paced:
            connection.is_client_paced = False
            self._client_paced.release(connection.account)
            self._serve_queue()

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def retired(self, connection: Connection) -> None:
        """The connection may not be used again."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: Connection) -> None:
        """The socket is closed."""
        self._open.discard(connection)
        if self._closing is not None and not self._open and not self._closing.done():
            self._closing.set_result(None)

    def retire(self) -> None:
        """Closes idle connections, and each other one when its exchange ends."""
        self._retired = True
        if self._reaper is not None:
            self._reaper.cancel()
        for connection in list(self._idle):
            connection.close(f"{self.address} is no longer used")

    async def close(self) -> None:
        """Closes every connection, whatever runs on it, and returns when all sockets are closed; opens none after."""
        self.retire()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        self._queue.fail(lambda: unreachable(f"{self.address} is no longer used"))
        for connection in list(self._open):
            connection.close(f"{self.address} is no longer used")
        if self._open:
            await self._closing

    def _may_lease(self, account: Hashable, *, is_client_paced: bool) -> bool:
        return self._leases.allows(account) and (not is_client_paced or self._client_paced.allows(account))

    def _lease(self, account: Hashable, *, is_client_paced: bool) -> None:
        self._leases.lease(account)
        if is_client_paced:
            self._client_paced.lease(account)

    def _free_slot(self, account: Hashable, *, is_client_paced: bool) -> None:
        self._leases.release(account)
        if is_client_paced:
            self._client_paced.release(account)
        if self._queue:
            self._serve_queue()

    def _serve_queue(self) -> None:
        """Gives what is free to those that wait, but for those whose share is used up."""
        while (waiter := self._next_waiter()) is not None:
            now, account, is_client_paced = asyncio.get_running_loop().time(), waiter.account, waiter.is_client_paced
            connection = self.take_idle(now, account, is_client_paced=is_client_paced)
            if connection is None:
                self._lease(account, is_client_paced=is_client_paced)
            waiter.slot.set_result(connection)

    def _next_waiter(self) -> Waiter | None:
        """The first that waits and may lease; no longer in the queue."""
        if self._leases.count >= self._leases.maximum:
            return None

        def may_lease(waiter: Waiter) -> bool:
            return self._may_lease(waiter.account, is_client_paced=waiter.is_client_paced)

        return self._queue.next(may_lease, leases=self._leases)

    def _make_room(self, waiter: Waiter) -> None:
        """Ends a response for a waiter whose account has far less than another one, which does not take its own.

        The account that has most loses the response of which it has taken nothing for the longest time.
        """
        if waiter.slot.done() or self._leases.count < self._leases.maximum:
            return
        untaken_since = asyncio.get_running_loop().time() - UNTAKEN_SECONDS
        untaken = [each for each in self._open if each.is_untaken(untaken_since)]
        if not untaken:
            return
        longest = min(untaken, key=lambda each: (-self._leases.of(each.account), each.progress_at))
        if self._leases.of(longest.account) > 2 * (self._leases.of(waiter.account) + 1):
            longest.end_untaken()

    async def _connect(self, account: Hashable, *, is_client_paced: bool) -> Connection:
        """Opens a connection in a leased slot, which it frees on any failure."""
        try:
            async with asyncio.timeout(self._limits.connect_timeout_seconds):
                connection = await self._dialer.dial()
        except TimeoutError as error:
            self._free_slot(account, is_client_paced=is_client_paced)
            self._log_failure("timeout")
            seconds = self._limits.connect_timeout_seconds
            raise connect_timed_out(f"no connection to the upstream in {seconds:g} s") from error
        except OSError as error:  # refused, unroutable, DNS (gaierror), TLS (SSLError): all are OSErrors
            self._free_slot(account, is_client_paced=is_client_paced)
            self._log_failure(_reason(error))
            raise not_connected("no connection to the upstream") from error
        except BaseException:
            self._free_slot(account, is_client_paced=is_client_paced)
            raise
        connection.account, connection.is_client_paced = account, is_client_paced
        if connection.closed or self._closing is not None:
            self.release(connection, reusable=False)
            raise not_connected(f"{self.address} closed the connection at once")
        return connection

    def _new_connection(self) -> Connection:
        return Connection(self, self._deadlines)

    async def _wait_in_queue(self, account: Hashable, *, is_client_paced: bool) -> Connection | None:
        """Waits for a slot: gives the connection that comes with it, or None if one must be opened."""
        if not self._queue.has_room(account):
            raise overloaded(f"{len(self._queue)} of {MAX_QUEUED} requests wait for {self.address}")
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future(), account, is_client_paced)
        self._queue.add(waiter)
        # By then, what nobody takes has not been taken for long enough.
        second_look = loop.call_later(UNTAKEN_SECONDS, self._make_room, waiter)
        timer = loop.call_later(self._limits.queue_timeout_seconds, self._time_out, waiter)
        self._make_room(waiter)
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            # Cancelled after the slot came, but before this ran: it goes to the next waiter.
            if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self._pass_on(waiter)
            raise
        finally:
            second_look.cancel()
            timer.cancel()
            self._queue.discard(waiter)
            del waiter  # has the error, whose traceback has this frame

    def _time_out(self, waiter: Waiter) -> None:
        self._make_room(waiter)
        if not waiter.slot.done():
            seconds = self._limits.queue_timeout_seconds
            waiter.slot.set_exception(overloaded(f"no connection to the upstream became free in {seconds:g} s"))

    def _log_failure(self, reason: str) -> None:
        """For the operator: clients must not learn the addresses and names of upstreams."""
        _log.warning("upstream_not_connected", target=str(self.address), reason=reason)

    def _pass_on(self, waiter: Waiter) -> None:
        connection = waiter.slot.result()
        if connection is None:
            self._free_slot(waiter.account, is_client_paced=waiter.is_client_paced)
        else:
            self.release(connection, reusable=not connection.closed)

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
