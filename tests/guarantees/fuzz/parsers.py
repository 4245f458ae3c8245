"""Two servers with different parsers, h11 and httptools, which record what they read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import httptools

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
Field = tuple[bytes, bytes]


@dataclass
class Read:
    """One request as a parser read it, names in lower case; complete once its body has ended."""

    method: bytes
    target: bytes
    fields: list[Field]
    body: bytes = b""
    is_complete: bool = False


@dataclass
class Notes:
    """All that reached one server since the last `take`; `total` counts the complete requests of all takes."""

    url: str = ""
    total: int = 0
    reads: list[Read] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def take(self) -> list[Read]:
        """The complete requests; raises if anything was unreadable."""
        reads, self.reads = self.reads, []
        assert not self.faults, self.faults
        complete = [read for read in reads if read.is_complete]
        self.total += len(complete)
        return complete


class ByH11(asyncio.Protocol):
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._parser = h11.Connection(h11.SERVER)
        self._read: Read | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.receive_data(data)
            while self._take(self._parser.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._notes.faults.append(f"h11: {error}: {data!r}")
            self._transport.close()

    def _take(self, event: Any) -> bool:
        if isinstance(event, h11.Request):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            self._read = Read(bytes(event.method), bytes(event.target), fields)
            self._notes.reads.append(self._read)
        elif isinstance(event, h11.Data) and self._read is not None:
            self._read.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and self._read is not None:
            self._read.is_complete = True
            self._answer()
        return event is not h11.NEED_DATA and event is not h11.PAUSED

    def _answer(self) -> None:
        length = [(b"content-length", b"0")]
        parts = [self._parser.send(h11.Response(status_code=200, headers=length, reason=b"OK"))]
        parts.append(self._parser.send(h11.EndOfMessage()))
        self._transport.write(b"".join(part or b"" for part in parts))
        if self._parser.our_state is h11.MUST_CLOSE:
            self._transport.close()
        else:
            self._parser.start_next_cycle()


class ByHttptools(asyncio.Protocol):
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._parser = httptools.HttpRequestParser(self)
        self._read = Read(b"", b"", [])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._notes.faults.append(f"httptools: {error}: {data!r}")
            self._transport.close()

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._read = Read(b"", b"", [])

    def on_url(self, url: bytes) -> None:
        self._read.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._read.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._read.method = self._parser.get_method()
        self._notes.reads.append(self._read)

    def on_body(self, body: bytes) -> None:
        self._read.body += body

    def on_message_complete(self) -> None:
        self._read.is_complete = True
        self._transport.write(ANSWER)


@asynccontextmanager
async def reading(make: Callable[[Notes], asyncio.Protocol]) -> AsyncIterator[Notes]:
    """A server whose connections are of this protocol."""
    notes = Notes()
    server = await asyncio.get_running_loop().create_server(lambda: make(notes), "127.0.0.1", 0)
    notes.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield notes
    finally:
        server.close()
