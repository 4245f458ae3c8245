"""How the public listener stops without losing a call.

From the signal on each response is the last on its connection. Then the kernel takes no more connections, those that it
holds are served, and what waits for a request is told that its connection ends. Calls have until the drain timeout.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Collection, Sequence
from dataclasses import replace

import structlog
from uvicorn.server import ServerState

from gateway.listener.connection_gate import ConnectionGate
from gateway.listener.ending import LINGER_SECONDS

HANDSHAKE_SECONDS = 0.2  # what a handshake that has begun has to end: a round trip to the client
BACKLOG_SECONDS = 2.0  # a listener that has not accepted what waits by then is overloaded
_POLL_SECONDS = 0.02
_SO_ATTACH_FILTER = 26  # linux: asm-generic/socket.h, which Python does not name
_QUEUED = struct.Struct("=24xI")  # tcp_info of a listening socket: tcpi_unacked, how many wait to be accepted

# Classic BPF over the TCP header (linux/filter.h): a segment with SYN and without ACK is dropped, all others pass.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # A = byte 13, the flags
    (0x54, 0, 0, 0x12),  # A &= SYN | ACK
    (0x15, 0, 1, 0x02),  # if A == SYN: the next, else the one after it
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)
_log = structlog.get_logger()


class Drain:
    """The drain of one public listener, whose connections share the gate."""

    def __init__(self, gate: ConnectionGate, *, timeout_seconds: float) -> None:
        self._gate = gate
        self._timeout_seconds = timeout_seconds

    def announce(self, state: ServerState) -> None:
        """From now on responses say that their connection closes; new connections are still accepted."""
        if not self._gate.is_draining:
            self._gate.is_draining = True
            for connection in list(state.connections):
                connection.shutdown()

    async def run(
        self, state: ServerState, servers: Sequence[asyncio.Server], sockets: Sequence[socket.socket]
    ) -> None:
        """Stops accepting and returns when all calls are settled, at the latest some time after the drain timeout."""
        self.announce(state)
        await _accept_the_rest(sockets)
        for server in servers:
            server.close()
        for listening in sockets:
            listening.close()
        self._gate.limits = replace(self._gate.limits, keep_alive_seconds=0.0)
        for connection in list(state.connections):
            connection.shutdown()
        if not await _emptied(self._timeout_seconds, state.connections, state.tasks):
            await self._break_off(state)

    async def _break_off(self, state: ServerState) -> None:
        self._gate.is_past_drain = True
        _log.warning("drain_timed_out", requests=len(state.tasks), connections=len(state.connections))
        for task in (under_way := list(state.tasks)):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await _emptied(2 * LINGER_SECONDS, state.connections)


async def _emptied(seconds: float, *collections: Collection[object]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            while any(collections):  # noqa: ASYNC110 - uvicorn's state has no event
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return False
    return True


async def _accept_the_rest(sockets: Sequence[socket.socket]) -> None:
    """Returns when the event loop has accepted every connection that the kernel has promised to a client.

    Closing a listening socket resets what waits in its queue. So first its handshakes are refused: a client repeats its
    SYN after a second, and reaches the next listener of the address or none. It has sent nothing by then.
    """
    are_refused = [_refuse_handshakes(each) for each in sockets]
    if not all(are_refused):
        return
    await asyncio.sleep(HANDSHAKE_SECONDS)
    try:
        async with asyncio.timeout(BACKLOG_SECONDS):
            while any(_queued(each) for each in sockets):  # noqa: ASYNC110 - the kernel has no event
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        _log.warning("backlog_not_accepted", connections=sum(_queued(each) for each in sockets))
    await asyncio.sleep(_POLL_SECONDS)  # for the loop to make connections of the sockets


def _refuse_handshakes(listening: socket.socket) -> bool:
    """False where the system has no such filter: then connections of the last moment are reset."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in _DROP_SYN))
    program = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(code))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return hasattr(socket, "TCP_INFO")


def _queued(listening: socket.socket) -> int:
    (count,) = _QUEUED.unpack(listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED.size))
    return int(count)
