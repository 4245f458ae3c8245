"""A real TCP server that reads requests and plays back what it was told, byte for byte."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from gateway.upstream.balancer import Upstream
from gateway.upstream.request_head import Request
from gateway.upstream.response import Response

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_LENGTH = re.compile(rb"content-length: (\d+)")
# SO_LINGER with a time of zero makes close() send RST.
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Then(Enum):
    KEEP = "keep the connection"
    CLOSE = "close"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request is answered with; and what becomes of the connection."""

    data: bytes = OK
    then: Then = Then.KEEP


class Peer(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, server: Scripted) -> None:
        self.server = server
        self.received = b""
        self.closed = False
        self.unsent = -1
        self.stuck_looks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.peers.append(self)
        if not self.server.reads:
            self.transport.pause_reading()
        if self.server.greeting:
            self.transport.write(self.server.greeting)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if pause_seconds := self.server.pause_between_reads_seconds:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(pause_seconds, self.transport.resume_reading)
        if self.server.answers_heads:
            self._answer_head()
            return
        while (end := _request_end(self.received)) > 0:
            request, self.received = self.received[:end], self.received[end:]
            self.server.requests.append(request)
            self.server.asked.append(self)
            self.play(self.server.next_reply())

    def _answer_head(self) -> None:
        if b"\r\n\r\n" in self.received and not self.server.requests:
            if self.server.stops_reading:
                self.transport.pause_reading()
            self.server.requests.append(self.received)
            self.play(self.server.next_reply())

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True

    def play(self, reply: Reply) -> None:
        if reply.data:
            self.transport.write(reply.data)
        if reply.then is Then.CLOSE:
            self.transport.close()
        elif reply.then is Then.RESET:
            self.reset()

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()


class Scripted:
    """Replies in order over all connections; the last one repeats."""

    def __init__(self, replies: tuple[Reply, ...]) -> None:
        self.replies = replies or (Reply(),)
        self.greeting = b""
        self.answers_heads = False
        self.reads = True
        self.stops_reading = False
        self.pause_between_reads_seconds = 0.0
        self.respond: Callable[[bytes], Reply] | None = None
        self.peers: list[Peer] = []
        self.requests: list[bytes] = []
        self.asked: list[Peer] = []  # by each request, in order
        self.url = ""

    def next_reply(self) -> Reply:
        if self.respond is not None:
            return self.respond(self.requests[-1])
        return self.replies[min(len(self.requests), len(self.replies)) - 1]


@asynccontextmanager
async def scripted(
    *replies: Reply,
    greeting: bytes = b"",
    answers_heads: bool = False,
    reads: bool = True,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Scripted]:
    """`answers_heads`: once, without waiting for the body; `reads=False`: nothing until the test resumes."""
    played = Scripted(replies)
    played.greeting, played.answers_heads, played.reads = greeting, answers_heads, reads
    server = await asyncio.get_running_loop().create_server(lambda: Peer(played), host, port, ssl=tls)
    address, bound_port = server.sockets[0].getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    played.url = f"{'https' if tls else 'http'}://{shown}:{bound_port}"
    try:
        yield played
    finally:
        server.close()
        for peer in played.peers:
            peer.transport.abort()
        await eventually(lambda: all(peer.closed for peer in played.peers))
        await server.wait_closed()


@contextmanager
def deaf(host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """A listener whose accept queue is full: connecting to it hangs, as on an address that drops packets."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://{host}:{listener.getsockname()[1]}"


@asynccontextmanager
async def upstream_to(*targets: str, **settings: Any) -> AsyncIterator[Upstream]:
    """An upstream with short timeouts, which at the end must hold no slot, no waiter and no socket."""
    defaults: dict[str, Any] = {
        "connect_timeout_seconds": 2.0,
        "first_byte_timeout_seconds": 2.0,
        "idle_timeout_seconds": 2.0,
        "total_timeout_seconds": 10.0,
        "max_connections": 4,
        "queue_timeout_seconds": 2.0,
        "retries": 0,
    }
    upstream = Upstream("test", targets=targets, **{**defaults, **settings})
    try:
        yield upstream
        await eventually(lambda: "[0 leased, " in repr(upstream) and " 0 queued, " in repr(upstream))
    finally:
        await upstream.close()
        assert "0 idle, 0 queued, 0 open]" in repr(upstream)


async def read_all(response: Response) -> bytes:
    """The whole body; raises as `wait_for_more` does."""
    body = bytearray(response.take())
    while not response.complete:
        await response.wait_for_more()
        body += response.take()
    response.close()
    return bytes(body)


async def fetch(upstream: Upstream, request: Request | None = None) -> tuple[int, bytes]:
    response = await upstream.send(request or Request(b"GET", b"/"))
    try:
        return response.status, await read_all(response)
    finally:
        response.close()


async def eventually(condition: Callable[[], bool], within_seconds: float = 5.0) -> None:
    """Wait for what the loop has yet to notice; fails loudly when it never does."""
    async with asyncio.timeout(within_seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells the test when the loop will have noticed
            await asyncio.sleep(0.001)


def _request_end(data: bytes) -> int:
    """Where the first complete request ends, or -1."""
    head_end = data.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return -1
    if b"transfer-encoding: chunked" in data[:head_end]:
        return data.find(b"0\r\n\r\n", head_end) + 5 if b"0\r\n\r\n" in data[head_end:] else -1
    length = _LENGTH.search(data[:head_end])
    end = head_end + (int(length.group(1)) if length else 0)
    return end if len(data) >= end else -1
