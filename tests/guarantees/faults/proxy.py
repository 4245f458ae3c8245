"""A TCP proxy that injects faults: it delays, drips, garbles, freezes, cuts and resets.

It also sees what passes, so a trap (`traps.py`) can spring at the very command that it waits for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

READ_BYTES = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


# Looks at bytes before they pass. True: they do not, nor does anything after them.
Watch = Callable[["Connection", bytes], bool]


@dataclass(slots=True)
class Lane:
    """One direction of every connection. Changes take effect with the next bytes that pass."""

    delay_seconds: Callable[[], float] = lambda: 0.0
    drip_bytes: int | None = None
    garble: bool = False
    watch: Watch | None = None


@dataclass(eq=False, slots=True)
class Connection:
    """A client's connection, the connection to the server behind, and the tasks between them."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    lanes: list[asyncio.Task[None]] = field(default_factory=list)


class FaultProxy:
    """Listens on a loopback port and forwards to `host`:`port`, as `requests` and `replies` have it.

    Use it as a context manager; nothing outlives the block.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._frozen = False
        self.requests = Lane()
        self.replies = Lane()

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        lanes = [lane for connection in self._connections for lane in connection.lanes]
        self.cut()
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        return len(self._connections)

    def through(self, url: str) -> str:
        """The same URL by way of this proxy."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}".lstrip("@")))

    def lead_to(self, port: int) -> None:
        """Ends every connection, and leads new ones to another server."""
        self._target = (self._target[0], port)
        self.reset()

    def freeze(self) -> None:
        """Keeps connections open and lets nothing pass, on present or new ones, as a stopped server does."""
        self._frozen = True
        self.freeze_present()

    def freeze_present(self) -> None:
        """Freezes the present connections; new ones pass."""
        for connection in self._connections:
            connection.flowing.clear()

    def thaw(self) -> None:
        """Lets everything pass that was held back, in order."""
        self._frozen = False
        for connection in self._connections:
            connection.flowing.set()

    def cut(self) -> None:
        """Ends every connection as a server does that closes it."""
        for connection in list(self._connections):
            connection.client.close()
            connection.server.close()

    def reset(self) -> None:
        """Ends every connection as a server does that crashes: with RST."""
        for connection in list(self._connections):
            if not connection.client.is_closing():
                client = connection.client.get_extra_info("socket")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                connection.client.transport.abort()
            connection.server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        connection = Connection(writer, server_writer)
        if not self._frozen:
            connection.flowing.set()
        connection.lanes = [
            asyncio.create_task(self._carry(reader, server_writer, connection, self.requests)),
            asyncio.create_task(self._carry(server_reader, writer, connection, self.replies)),
        ]
        self._connections.add(connection)
        await asyncio.gather(*connection.lanes, return_exceptions=True)
        self._connections.discard(connection)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection, lane: Lane
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(lane.drip_bytes or READ_BYTES):
                if seconds := lane.delay_seconds():
                    await asyncio.sleep(seconds)
                await connection.flowing.wait()
                if lane.watch is not None and lane.watch(connection, data):
                    break
                writer.write(b"?" * len(data) if lane.garble else data)
                await writer.drain()
        writer.close()
