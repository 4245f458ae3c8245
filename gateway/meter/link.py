"""One pipelined connection to Redis: commands of a loop turn leave in one write, replies resolve in order.

redis-py connects (URL, TLS, AUTH, database); hiredis packs and parses; between them there is only a deque of futures. A
caller that goes away cancels its future, never its place in the deque, so no reply ever reaches another caller.

Failing is declared: a call answers within `timeout_seconds` or raises MeterUnavailable, and without a connection it
raises at once. A call that timed out may still have been executed; the caller must assume either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError

MAX_PENDING = 20_000  # commands awaiting a reply; past it Redis is slower than we are, and waiting longer helps nobody
RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
CONNECT_TIMEOUT_SECONDS = 2.0
MIN_REDIS = (6, 2)
MIN_VALKEY = (7, 2)

Command = Sequence[bytes | str | int]
pack = cast(Callable[[tuple[bytes | str | int, ...]], bytes], hiredis.pack_command)  # its stub knows one-tuples only


class MeterUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """Redis did not answer in time, or there is no connection to it. The command may or may not have run."""


class MeterError(Exception):
    """Redis answered with an error: a bug, a wrong permission, or a server that cannot write."""


class UnsupportedServer(Exception):  # noqa: N818 - it names what was found
    """The server is older than the scripts need."""


class Script:
    """A Lua script by its SHA-1, as EVALSHA wants it, and its source for a server that has lost it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest().encode()

    @classmethod
    def load(cls, name: str) -> Script:
        return cls((Path(__file__).parent / f"{name}.lua").read_text())


class Link:
    """A connection that reconnects by itself."""

    def __init__(self, url: str, *, timeout_seconds: float, scripts: Sequence[Script] = ()) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._scripts = tuple(scripts)
        self._pipe: _Pipe | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Link {'closed' if self._closed else self._pipe or 'disconnected'}>"

    @property
    def is_connected(self) -> bool:
        return self._pipe is not None

    async def open(self) -> None:
        """Connects. Raises MeterUnavailable if nothing answers, UnsupportedServer if the wrong thing does."""
        self._pipe = await self._connect()

    async def close(self) -> None:
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._pipe is not None:
            await self._pipe.close()

    async def call(self, command: Command) -> Any:
        """Sends one command and gives its reply. Raises MeterUnavailable or MeterError."""
        if self._pipe is None:
            raise MeterUnavailable("not connected to Redis")
        reply = await self._pipe.send(pack(tuple(command)))
        if isinstance(reply, hiredis.ReplyError):
            raise MeterError(str(reply))
        return reply

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Command) -> Any:
        """Runs a script by its digest; a server that has forgotten it is sent the source, once."""
        try:
            return await self.call((b"EVALSHA", script.sha, len(keys), *keys, *arguments))
        except MeterError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.call((b"EVAL", script.source, len(keys), *keys, *arguments))

    async def _connect(self) -> _Pipe:
        pool = ConnectionPool.from_url(self._url, protocol=2, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS)
        connection = pool.make_connection()  # type: ignore[no-untyped-call] # redis-py leaves it bare
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await connection.connect()
                await self._greet(connection)
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise MeterUnavailable(f"cannot connect to Redis: {error}") from error
        return _Pipe(connection, self._timeout_seconds, on_lost=self._lost)

    async def _greet(self, connection: AbstractConnection) -> None:
        await connection.send_command("INFO", "server")
        _check_version(await connection.read_response(disable_decoding=True))
        for script in self._scripts:
            await connection.send_command("SCRIPT", "LOAD", script.source)
            await connection.read_response()

    def _lost(self, pipe: _Pipe) -> None:
        if pipe is self._pipe and not self._closed:
            self._pipe = None
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        attempt = 0
        while True:
            try:
                self._pipe = await self._connect()
                return
            except (MeterUnavailable, UnsupportedServer):
                await asyncio.sleep(RECONNECT_SECONDS[min(attempt, len(RECONNECT_SECONDS) - 1)])
                attempt += 1


class _Pipe(asyncio.Protocol):
    """A connected socket: a buffer going out, a deque of futures coming back, one deadline for the oldest."""

    def __init__(
        self, connection: AbstractConnection, timeout_seconds: float, *, on_lost: Callable[[_Pipe], None]
    ) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        # redis-py has connected and authenticated; from here on the socket is ours.
        self._transport = cast(asyncio.Transport, connection._writer.transport)  # type: ignore[union-attr] # noqa: SLF001
        self._transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"{len(self._pending)} pending"

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        if self._lost or len(self._pending) >= MAX_PENDING:
            raise MeterUnavailable("Redis does not keep up" if not self._lost else "connection to Redis lost")
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        future = self._loop.create_future()
        self._pending.append((future, self._loop.time() + self._timeout_seconds))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_seconds, self._check_oldest)
        return future

    async def close(self) -> None:
        self._fail("closed")
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                future, _ = pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._fail("Redis sent what is not a reply")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._fail("connection to Redis lost")

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._lost:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def _check_oldest(self) -> None:
        self._timer = None
        if not self._pending:
            return
        wait = self._pending[0][1] - self._loop.time()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._check_oldest)
        else:
            self._fail("Redis did not answer in time")

    def _fail(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(MeterUnavailable(reason))
        self._on_lost(self)


def _check_version(info: bytes) -> None:
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    is_valkey = "valkey_version" in fields
    name, minimum = ("Valkey", MIN_VALKEY) if is_valkey else ("Redis", MIN_REDIS)
    version = fields["valkey_version" if is_valkey else "redis_version"]
    if tuple(int(part) for part in version.split(".")[:2]) < minimum:
        needed = ".".join(map(str, minimum))
        raise UnsupportedServer(f"{name} {version} is too old: {name} >= {needed} is needed")
