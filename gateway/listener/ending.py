"""How a connection ends: by a cut, in two steps, or with a client that closes its half and waits for the answer.

A FIN does not tell whether the client has closed its half or all of it. Only what is sent to it does: a client that has
closed resets the connection. So a probe is sent at once: bytes that come before the next ones whatever these are.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from gateway.listener.connection_gate import reset_on_close
from gateway.listener.limits import Deadline, ListenerLimits

# How long a client that is still sending has to read its response before the reset (Go: 0.5 s, nginx: 5 s and 30 s).
LINGER_SECONDS = 1.0
MAX_LINGER_BYTES = 64 * 1024

BEGINNING = b"HTTP/1.1 "  # of every response (RFC 9112 section 4)
LEADING_ZERO = b"0"  # of the size of every chunk, if one likes (RFC 9112 section 7.1)

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)  # Linux
_TCP_CLOSE = 7  # linux/tcp.h: after a reset
_FIRST_LOOK_SECONDS, _MAX_LOOK_SECONDS = 0.005, 1.0


def cut(transport: asyncio.Transport, *, hard: bool) -> None:
    """Closes at once; `hard` by a reset, without which a close-delimited body would look complete."""
    if hard:
        reset_on_close(transport)
    transport.abort()


def half_closed(
    transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, probe: bytes | None
) -> asyncio.Transport | None:
    """The transport of a client after its FIN, which is aborted once the client turns out to have closed all of it.

    None where that cannot be told: without a probe, under TLS, and where the system does not say.
    """
    if probe is None or _TCP_INFO is None or not transport.can_write_eof():
        return None
    return cast(asyncio.Transport, _HalfClosed(transport, loop, probe))


def announced(transport: asyncio.Transport) -> asyncio.Transport:
    """The transport of a connection that waits for a request, after telling its client that it ends.

    A FIN would lose a request that is on its way: no answer could follow it. Instead the beginning of any response is
    sent. A client that sees bytes without having asked closes the connection; one that has just asked gets the rest.
    """
    return cast(asyncio.Transport, _Begun(transport, BEGINNING))


def cut_if_stuck(transport: asyncio.Transport, deadline: Deadline, limits: ListenerLimits) -> None:
    """Cuts the connection once its client has taken nothing of what is written for `body_idle_timeout_seconds`."""
    before = transport.get_write_buffer_size()

    def look() -> None:
        if transport.get_write_buffer_size() < before:
            cut_if_stuck(transport, deadline, limits)
        else:
            transport.abort()

    deadline.set(limits.body_idle_timeout_seconds, look)


class _Begun:
    """Stands for a transport to which `sent` has been written, and leaves it out where the next bytes begin with it."""

    def __init__(self, transport: asyncio.Transport, sent: bytes) -> None:
        self._transport = transport
        self._sent = sent
        transport.write(sent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        data, self._sent = data.removeprefix(self._sent), b""
        self._transport.write(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))


class _HalfClosed:
    """Stands for the transport of a client that has closed its half, and aborts it once the client has closed all."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, probe: bytes) -> None:
        self._transport = _Begun(transport, probe)
        self._loop = loop
        self._look_later(_FIRST_LOOK_SECONDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def can_write_eof(self) -> bool:
        """No: the client has ended already, and a second step would wait for nothing."""
        return False

    def _look_later(self, seconds: float) -> None:
        self._loop.call_later(seconds, self._look, min(2 * seconds, _MAX_LOOK_SECONDS))

    def _look(self, next_seconds: float) -> None:
        if self._transport.is_closing():
            return
        found = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)
        if found[0] == _TCP_CLOSE:
            self._transport.abort()
        else:
            self._look_later(next_seconds)
