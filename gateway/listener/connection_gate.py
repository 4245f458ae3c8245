"""Who may connect: so many in all and from each address. When all are taken, those idle longest give way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import MutableSet, Sequence
from copy import copy
from dataclasses import replace
from heapq import nsmallest
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, NamedTuple

from gateway.listener.error_response import RequestError
from gateway.listener.limits import ListenerLimits
from gateway.listener.turns import Turns
from policies.access.throttling import neighbourhood

# So many connections above a limit get a 503; the next are closed without a response.
MAX_REFUSED_CONNECTIONS = 256
MAX_REFUSED_PER_ADDRESS = 16
# Finding the idle ones takes a look at every connection, so several give way at a time.
_YIELDING_SHARE = 64
_LINGER_NOT = struct.pack("ii", 1, 0)  # SO_LINGER on, no time


def set_no_delay(transport: asyncio.BaseTransport) -> None:
    """asyncio does not set it where the listening socket was made without the protocol's number; uvloop does."""
    own = transport.get_extra_info("socket")
    if own.family in (socket.AF_INET, socket.AF_INET6):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """The client sees that the connection breaks off, also within a body that the end of the connection would end."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


class Entry(NamedTuple):
    """How a connection enters: `address` counts it; `error` is the response of one that may not stay."""

    address: str | None
    error: RequestError | None = None
    is_cut: bool = False


class ConnectionGate:
    """The gate of one process. Connections of `uncounted` networks, which are proxies, count in all only.

    While it `is_draining` each response is the last on its connection; `is_past_drain` refuses what still comes.
    """

    def __init__(self, limits: ListenerLimits, uncounted: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self.limits = limits
        self.is_draining = False
        self.is_past_drain = False
        self._max_connections = limits.max_connections
        self._max_per_address = limits.max_connections_per_address
        self._uncounted = tuple(uncounted)
        self._by_address: dict[str, int] = {}
        self._turns: Turns | None = None

    def enter(self, host: str, connections: MutableSet[Any]) -> Entry:
        """Lets a connection in, which `connections` holds already. `leave` must follow."""
        address = self._counted_address(host)
        here = 0
        if address is not None:
            here = self._by_address[address] = self._by_address.get(address, 0) + 1
        if self._max_per_address is not None and here > self._max_per_address:
            error = RequestError("too_many_connections", "Too many connections come from this address.")
            return Entry(address, error, here > self._max_per_address + MAX_REFUSED_PER_ADDRESS)
        excess = len(connections) - self._max_connections
        if excess > 0 and not self._make_room(connections):
            error = RequestError("too_many_connections", "The gateway serves as many connections as it can.")
            return Entry(address, error, excess > MAX_REFUSED_CONNECTIONS)
        return Entry(address)

    def turns(self, loop: asyncio.AbstractEventLoop) -> Turns:
        """What all connections of the process share their loop by."""
        if self._turns is None:
            self._turns = Turns(loop)
        return self._turns

    def leave(self, address: str | None) -> None:
        if address is None:
            return
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def after_end(self) -> ConnectionGate:
        """The same gate for a connection that has sent all that it will: it waits for nothing more."""
        gate = copy(self)
        gate.limits = replace(self.limits, keep_alive_seconds=0.0, header_timeout_seconds=0.0)
        return gate

    def _make_room(self, connections: MutableSet[Any]) -> bool:
        """Closes the connections that have been idle longest; False where each one is at work."""
        idle = [(since, id(each), each) for each in connections if (since := each.idle_since) is not None]
        yielding = nsmallest(max(1, self._max_connections // _YIELDING_SHARE), idle)
        for _, _, connection in yielding:
            connections.discard(connection)
            connection.shutdown()
        return bool(yielding)

    def _counted_address(self, host: str) -> str | None:
        """The address, of IPv6 its /64; None where it is not counted."""
        if self._max_per_address is None:
            return None
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return None
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        if any(address in network for network in self._uncounted):
            return None
        return neighbourhood(host)
