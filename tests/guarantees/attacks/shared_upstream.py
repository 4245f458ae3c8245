"""The upstream that attackers and victim share: it answers calls at once, and breaks off at what is poison to it.

It is a process of its own, so that what attackers make it do is not in the victim's way: it prints its URL, and ends
with its input.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE_BYTES = 32 * 1024 * 1024  # more than sockets hold for a client that does not read
UNSENT_BYTES = 64 * 1024
CHUNK = b"4000\r\n" + bytes(0x4000) + b"\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %b\r\n\r\n"
)
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


@asynccontextmanager
async def shared_upstream() -> AsyncIterator[str]:
    """The URL of one, which serves until the end of the block."""
    command = [sys.executable, "-m", "tests.guarantees.attacks.shared_upstream"]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        await process.communicate(b"")


async def _main() -> None:
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # It stands for another machine: what its kernel would take of a large answer beforehand costs none of these cores.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
    server = await asyncio.start_server(_serve, sock=listening)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201 - read by the test
    await ended


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        while await _answer(reader, writer):
            pass
    writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers a request; False where the connection ends after it."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"x-poison" in fields:
        return False
    if b"/large " in head.partition(b"\r\n")[0]:
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


if __name__ == "__main__":
    uvloop.run(_main())
