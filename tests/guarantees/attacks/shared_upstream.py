"""The upstream that attackers and victim share: it answers calls at once, and breaks off at what is poison to it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE_BYTES = 32 * 1024 * 1024  # more than sockets hold for a client that does not read
CHUNK = b"4000\r\n" + bytes(0x4000) + b"\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %b\r\n\r\n"
)
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class SharedUpstream:
    def __init__(self) -> None:
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SharedUpstream]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while await _answer(reader, writer):
                pass
        self._writers.discard(writer)
        writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers a request; False where the connection ends after it."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"x-poison" in fields:
        return False
    if head.startswith(b"GET /v1/large"):
        writer.write(STREAM)
        for _ in range(LARGE_BYTES // 0x4000):
            writer.write(CHUNK)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True
    if b"upgrade" in fields:
        key = head.lower().index(b"sec-websocket-key: ") + 19
        digest = hashlib.sha1(head[key : key + 24] + _MAGIC, usedforsecurity=False).digest()
        writer.write(SWITCH % base64.b64encode(digest))
        while await reader.read(65536):
            pass
        return False
    await _read_body(reader, fields)
    writer.write(ANSWER)
    return True


async def _read_body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> None:
    if b"transfer-encoding" in fields:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
        return
    left = int(fields.get(b"content-length", b"0"))
    while left:
        part = await reader.read(min(left, 65536))
        if not part:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(part)
