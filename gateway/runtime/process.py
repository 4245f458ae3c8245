"""One process of the gateway: it serves until a signal, drains and closes.

SIGTERM stops it, and so does the end of its supervisor. SIGHUP reloads the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

import uvicorn

from gateway.runtime.draining import Drain
from gateway.runtime.health.group import REPORT_SECONDS
from gateway.runtime.supervisor import DRAIN, READY

# As systemd's hard limit by default. More would only make what walks all descriptors slow.
MOST_DESCRIPTORS = 524_288
_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own. `drain` is how a listener of calls stops."""

    def __init__(self, config: uvicorn.Config, drain: Drain | None = None) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()

    def announce_drain(self) -> None:
        """From now on each response is the last on its connection."""
        if self._drain is not None:
            self._drain.announce(self.server_state)
        elif _CLOSE not in self.config.encoded_headers:
            self.config.encoded_headers.append(_CLOSE)
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain is None:
            await super().shutdown(sockets)
        else:
            await self._drain.run(self.server_state, self.servers, sockets or ())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def drained(self) -> None:
        """Returns when requests that outlived the drain timeout, and were cancelled, have settled."""
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)


async def serve(
    servers: Sequence[tuple[Server, Sequence[socket.socket]]],
    *,
    line: int | None,
    missing: Callable[[], Mapping[str, str]],
    reload: Callable[[], None] | None = None,
) -> None:
    """Runs the servers, reports that they are ready, and returns when they have drained after a signal.

    `missing` is what keeps them from serving; the supervisor is told of it.
    """
    stop = asyncio.Event()

    def announce_drain() -> None:
        for server, _ in servers:
            server.announce_drain()

    _on_signals(stop, reload)
    running = [asyncio.create_task(server.serve(sockets=list(sockets))) for server, sockets in servers]
    for server, _ in servers:
        await server.is_listening.wait()
    watching = (
        asyncio.create_task(_follow_supervisor(line, stop, missing, announce_drain=announce_drain))
        if line is not None
        else None
    )
    await _until(stop, running)
    for server, _ in servers:
        server.should_exit = True
    await asyncio.gather(*running)
    for server, _ in servers:
        await server.drained()
    if watching is not None:
        watching.cancel()


async def _until(stop: asyncio.Event, running: Sequence[asyncio.Task[None]]) -> None:
    """Returns at the signal, or when a server stops by itself, which only a failure causes."""
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *running], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _follow_supervisor(
    line: int, stop: asyncio.Event, missing: Callable[[], Mapping[str, str]], *, announce_drain: Callable[[], None]
) -> None:
    """Reports to the supervisor, hears of its drain, and stops the process at its end."""
    with socket.socket(fileno=line) as supervisor, contextlib.suppress(ConnectionError):  # it may end at any moment
        supervisor.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(supervisor, READY)
        reporting = asyncio.create_task(_report(supervisor, missing))
        try:
            while await loop.sock_recv(supervisor, len(DRAIN)):
                announce_drain()
        finally:
            reporting.cancel()
    stop.set()


async def _report(supervisor: socket.socket, missing: Callable[[], Mapping[str, str]]) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # it is gone, which is noticed by reading
        while True:
            await loop.sock_sendall(supervisor, json.dumps(dict(missing())).encode() + b"\n")
            await asyncio.sleep(REPORT_SECONDS)


def _on_signals(stop: asyncio.Event, reload: Callable[[], None] | None) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload or (lambda: None))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a supervisor blocks it in what it starts


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files to the hard one, within reason; child processes inherit it. Gives what it is.

    Service managers set it to 1024 for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a sandbox may forbid it
        return soft
    return wanted
