"""Clients that call at a steady pace and an upstream, which both record what they received."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit
from uuid import UUID

from tests.guarantees.faults.records import Call

PATIENCE_SECONDS = 15.0  # a killed gateway is back, and has taken what waited in its backlog, long before
RETRY_SECONDS = 0.05
END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Customer:
    user_id: UUID
    key: str


@dataclass
class PacedClients:
    """Customers call these URLs in turn, over connections that they keep."""

    urls: Sequence[str]
    customers: Sequence[Customer]
    chance: Random
    calls: dict[str, Call] = field(default_factory=dict)
    slowest_seconds: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def calling(self, count: int, *, pause_seconds: float) -> AsyncIterator[None]:
        """Runs `count` clients until the end of the block; each then finishes its call."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._call_on(stop, pause_seconds, number)) for number in range(count)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def call_once(self) -> None:
        """Each customer calls once by each URL."""
        for url in self.urls:
            for customer in self.customers:
                async with _Connection(url) as connection:
                    await self._call(connection, customer)

    async def _call_on(self, stop: asyncio.Event, pause_seconds: float, number: int) -> None:
        connection = _Connection(self.urls[number % len(self.urls)])
        while not stop.is_set():
            call = await self._call(connection, self.chance.choice(self.customers))
            if not call.is_whole:
                await connection.close()
            await asyncio.sleep(self.chance.uniform(0, 2 * pause_seconds) if call.is_whole else RETRY_SECONDS)
        await connection.close()

    async def _call(self, connection: _Connection, customer: Customer) -> Call:
        request_id = f"call-{len(self.calls)}"
        self.calls[request_id] = Call(customer.user_id, None, is_whole=False)
        began = asyncio.get_running_loop().time()
        status, is_whole, body = await connection.exchange(customer.key, request_id)
        self.slowest_seconds = max(self.slowest_seconds, asyncio.get_running_loop().time() - began)
        self.calls[request_id] = Call(customer.user_id, status, is_whole)
        if status is not None and status >= 400:
            self.refusals[f"{status} {json.loads(body)['detail']}" if is_whole else str(status)] += 1
        return self.calls[request_id]

    def statuses(self) -> Counter[int | None]:
        return Counter(call.status for call in self.calls.values())


class _Connection:
    """One at a time, opened when it is needed."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> _Connection:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def exchange(self, key: str, request_id: str) -> tuple[int | None, bool, bytes]:
        """The status if there was one, whether the answer was whole, and its body then."""
        received = bytearray()
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self._address.hostname, self._address.port)
                reader, writer = self._streams
                writer.write(_request(key, request_id))
                received += await reader.readuntil(b"\r\n\r\n")
                length = _length(received)
                body = await (reader.readuntil(END) if length is None else reader.readexactly(length))
                return int(received[9:12]), length is not None or body.endswith(END), body
        return (int(received[9:12]) if len(received) > 12 else None), False, b""

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.transport.abort()


def _request(key: str, request_id: str) -> bytes:
    lines = ("POST /v1/call HTTP/1.1", "host: gateway.test", f"x-api-key: {key}", f"x-request-id: {request_id}")
    return "\r\n".join((*lines, "content-length: 2", "", "{}")).encode()


def _length(head: bytes | bytearray) -> int | None:
    for line in bytes(head).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


class Upstream:
    """Answers in two pieces, a moment apart."""

    def __init__(self, chance: Random, *, slowness_seconds: float) -> None:
        self.reached: Counter[str] = Counter()
        self.port = 0
        self._chance = chance
        self._slowness_seconds = slowness_seconds

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Upstream]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(_length(head) or 0)
                self.reached[_id(head)] += 1
                await self._pause()
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
                await self._pause()
                writer.write(END)
        writer.close()

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._slowness_seconds))


def _id(head: bytes) -> str:
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-request-id:")]
    return line.partition(b":")[2].strip().decode()
