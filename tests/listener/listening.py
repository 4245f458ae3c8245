"""A listener on a real socket before a recording application, and a client that writes raw bytes to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.listener.server import DEFAULT_LIMITS, ListenerLimits, PublicProtocol, build_gate, configure
from gateway.runtime.draining import Drain
from gateway.runtime.process import Server

PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """A request as the application had it, whole."""

    method: str
    raw_path: bytes
    query: bytes = b""
    body: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = field(default=(), compare=False)
    version: str = field(default="1.1", compare=False)


class Recorder:
    """Reads each request to its end, writes it down and says `ok`; refuses what is under /refuse unread."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["raw_path"].startswith(b"/refuse"):
            await respond(send, 401, b"no")
            return
        body = await whole_body(receive)
        if body is None:
            return
        if scope["raw_path"] != b"/probe":
            self.seen.append(_seen(scope, body))
        await respond(send, 200, b"ok")


def _seen(scope: Any, body: bytes) -> Seen:
    target = scope["raw_path"], scope["query_string"]
    return Seen(scope["method"], *target, body, tuple(scope["headers"]), scope["http_version"])


async def whole_body(receive: Any) -> bytes | None:
    """The body; None if the client left first."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def respond(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    fields = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Counted(PublicProtocol):
    """The listener's protocol, which tells how much of a client's bytes it has taken."""

    taken = 0
    progress: asyncio.Event
    lost: asyncio.Event
    peer: tuple[str, int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.progress = asyncio.Event()
        self.lost = asyncio.Event()
        self.peer = transport.get_extra_info("peername")
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.taken += len(data)
        self.progress.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()
        self.progress.set()


@dataclass
class Listener:
    """A uvicorn server without its main loop, whose ticks and pauses would cost each test 0.2 s."""

    server: Server
    socket: socket.socket

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    async def stop(self) -> None:
        """As uvicorn stops after a signal."""
        await self.server.shutdown([self.socket])

    def connections(self) -> list[Counted]:
        connections: set[Any] = self.server.server_state.connections  # uvicorn names its own protocols only
        return [each for each in connections if isinstance(each, Counted)]


@asynccontextmanager
async def listening(
    app: Any, limits: ListenerLimits = DEFAULT_LIMITS, *, drain_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[Listener]:
    gate = build_gate(limits)
    config = configure(app, gate)
    config.http = partial(Counted, gate=gate)  # type: ignore[assignment] # the same, counted
    config.load()
    server = Server(config, Drain(gate, timeout_seconds=drain_seconds))
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as socket_:
        await server.startup([socket_])
        listener = Listener(server, socket_)
        try:
            yield listener
        finally:
            for task in list(server.server_state.tasks):
                task.cancel()
            for connection in listener.connections():
                connection.transport.abort()
                await connection.lost.wait()
            for each in server.servers:
                each.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of a problem document; None for any other body."""
        if self.headers.get(b"content-type") != b"application/problem+json":
            return None
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["request_id"].encode() == self.headers[b"x-request-id"]
        return str(document["code"])


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Counted | None) -> None:
        self.reader = reader
        self.writer = writer
        self._peer = peer
        self._sent = 0

    async def send(self, *pieces: bytes) -> None:
        """Each piece is sent when the listener has taken the one before, or has closed."""
        for piece in pieces:
            self.writer.write(piece)
            self._sent += len(piece)
            if len(pieces) > 1:
                await self._taken()

    async def _taken(self) -> None:
        peer = self._peer
        assert peer is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while peer.taken < self._sent and not peer.transport.is_closing():
                peer.progress.clear()
                await peer.progress.wait()

    async def answer(self, *, is_head: bool = False) -> Answer | None:
        """The next response; None at the end of the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise AssertionError(f"the connection ended within a head: {error.partial!r}") from error
                return None
            return await self._answer(head, is_head=is_head)

    async def final_answer(self) -> Answer:
        """The next response that is not 100 Continue."""
        while (answer := await self.answer()) is not None:
            if answer.status != 100:
                return answer
        raise AssertionError("the connection ended without an answer")

    async def answers(self) -> list[Answer]:
        """All responses until the connection ends."""
        found = []
        while (answer := await self.answer()) is not None:
            found.append(answer)
        return found

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read()

    async def close(self) -> None:
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()  # nobody is going to take it
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def _answer(self, head: bytes, *, is_head: bool) -> Answer:
        line, *fields = head[:-4].split(b"\r\n")
        pairs = [(name, value) for name, _, value in (each.partition(b": ") for each in fields)]
        headers = dict(pairs)
        assert len(headers) == len(pairs), f"a header is given twice: {head!r}"
        status = int(line.split(b" ")[1])
        if is_head or status in (100, 204, 304):
            return Answer(status, headers, b"")
        if b"content-length" in headers:
            return Answer(status, headers, await self.reader.readexactly(int(headers[b"content-length"])))
        if headers.get(b"transfer-encoding") == b"chunked":
            return Answer(status, headers, await self._chunks())
        return Answer(status, headers, await self.reader.read())

    async def _chunks(self) -> bytes:
        content = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            content.append((await self.reader.readexactly(size + 2))[:-2])
        assert await self.reader.readexactly(2) == b"\r\n"
        return b"".join(content)


@asynccontextmanager
async def connected(listener: Listener) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    name = writer.get_extra_info("sockname")
    async with asyncio.timeout(PATIENCE_SECONDS):
        peers: list[Counted] = []
        while not peers:
            await asyncio.sleep(0)
            peers = [each for each in listener.connections() if each.peer == name]
    client = Client(reader, writer, peers[0])
    try:
        yield client
    finally:
        await client.close()
