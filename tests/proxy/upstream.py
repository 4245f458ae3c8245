"""A real HTTP/1.1 server that records its requests and responds byte for byte as the test scripts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Fields = list[tuple[str, str]]
Answer = Callable[["Exchange"], Coroutine[None, None, None]]


@dataclass(eq=False)
class Exchange:
    """One request as it arrived; `body` grows while it is read."""

    method: str
    target: str
    fields: Fields
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of the body as they arrive, without framing."""
        if self.all("transfer-encoding"):
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                yield self._take(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            left = int(self["content-length"]) if self.all("content-length") else 0
            while left:
                chunk = self._take(await self.reader.read(left))
                if not chunk:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(chunk)
                yield chunk
        self.is_complete = True

    async def read(self) -> bytes:
        async for _ in self.chunks():
            pass
        return bytes(self.body)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, status: int = 200, body: bytes = b'{"ok": true}', **fields: str) -> None:
        """Sends a whole response; underscores in field names stand for dashes."""
        named = {"content_type": "application/json", "content_length": str(len(body))} | fields
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items() if value]
        await self.write(f"HTTP/1.1 {status} Said\r\n{''.join(lines)}\r\n".encode() + body)

    def _take(self, data: bytes) -> bytes:
        self.body += data
        return data


async def _ok(exchange: Exchange) -> None:
    await exchange.read()
    await exchange.reply()


class ScriptedUpstream:
    """`exchanges` are all since the last reset; `answer` responds to the next ones."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.answer: Answer = _ok
        self.url = ""
        self._answering: dict[asyncio.Task[None], Exchange] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]

    def respond_with(self, status: int = 200, body: bytes = b'{"ok": true}', **fields: str) -> None:
        """Reads every request whole and sends this response."""

        async def answer(exchange: Exchange) -> None:
            await exchange.read()
            await exchange.reply(status, body, **fields)

        self.answer = answer

    def respond_with_bytes(self, *parts: bytes) -> None:
        """Reads every request whole, sends these bytes and closes the connection."""

        async def answer(exchange: Exchange) -> None:
            await exchange.read()
            for part in parts:
                await exchange.write(part)
            exchange.writer.close()

        self.answer = answer

    def reset(self) -> None:
        """Removes what the test before has left, and cuts off its open exchanges."""
        for exchange in self._answering.values():
            exchange.writer.transport.abort()
        for task in self._answering:
            task.cancel()
        self.exchanges = []
        self.answer = _ok

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                await self._exchange(reader, writer)
        writer.close()
        self._writers.discard(writer)

    def close(self) -> None:
        self.reset()
        for writer in self._writers:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        fields = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in lines)]
        exchange = Exchange(method, target, fields, reader, writer)
        self.exchanges.append(exchange)
        task = asyncio.get_running_loop().create_task(self.answer(exchange))
        self._answering[task] = exchange
        try:
            await task
        finally:
            del self._answering[task]


@asynccontextmanager
async def running() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        upstream.close()
        await server.wait_closed()
