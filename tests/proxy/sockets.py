"""WebSockets by real clients and servers, and byte by byte."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha1
from secrets import token_bytes
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.proxy.data_plane import ANSWER_SECONDS, Account, DataPlane, RawConnection
from tests.proxy.upstream import Exchange

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(handler: Handler, **settings: Any) -> AsyncIterator[str]:
    """A real server; gives its `http://` URL."""
    async with serve(handler, "127.0.0.1", 0, max_size=None, **settings) as serving:
        yield f"http://127.0.0.1:{next(iter(serving.sockets)).getsockname()[1]}"


def client(data_plane: DataPlane, account: Account, path: str = "/v1/socket", **settings: Any) -> connect:
    """A real client before its handshake."""
    url = data_plane.url.replace("http:", "ws:") + path
    given = {"additional_headers": account.auth, "max_size": None, "open_timeout": ANSWER_SECONDS, "proxy": None}
    return connect(url, **given | settings)


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


def handshake_fields(**changed: str | None) -> list[str]:
    """The fields of a valid handshake with changes by name, underscores for dashes; None removes one."""
    fields: dict[str, str | None] = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": b64encode(token_bytes(16)).decode(),
    }
    pairs = (fields | changed).items()
    return [f"{name.replace('_', '-')}: {value}" for name, value in pairs if value is not None]


async def open_tunnel(wire: RawConnection, account: Account, path: str = "/v1/socket") -> dict[str, str]:
    """Opens a tunnel byte by byte; gives the fields of the 101."""
    await wire.request(account, f"GET {path}", *handshake_fields())
    status, fields = await wire.read_head()
    assert status == 101
    return fields


async def switch(exchange: Exchange, first: bytes = b"", **changed: str) -> None:
    """Accepts a handshake as an upstream should, with changed fields."""
    given = exchange["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = b64encode(sha1(given, usedforsecurity=False).digest()).decode()
    fields = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_accept": accept} | changed
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)
    await exchange.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode() + first)
