"""One pipelined connection to Redis: commands of a loop turn leave in one write, replies resolve in order.

redis-py connects (URL, TLS, AUTH, database); hiredis packs and parses; between them there is only a deque of futures. A
caller that goes away cancels its future, never its place in the deque, so no reply ever reaches another caller.

Failing is declared: a call answers within `timeout_seconds` or raises MeterUnavailable, and without a connection it
raises at once. A call that timed out may still have been executed, or not; but before a new connection serves, the
server is made to drop the old one, so that nothing of the old one is executed after anything of the new one.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.metrics import BufferedHistogram

MAX_PENDING = 20_000  # commands awaiting a reply; past it Redis is slower than we are, and waiting longer helps nobody
RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
CONNECT_TIMEOUT_SECONDS = 2.0
READ_FIRST_SECONDS = 0.001
MIN_REDIS = (6, 2)
MIN_VALKEY = (7, 2)

# Errors by which a server says that it cannot serve just now (Redis `src/server.c`, shared objects). A script's own
# commands fail with the same codes; servers before 7.0 wrap those in `ERR Error running script .. -OOM ..`.
_OUTAGE = re.compile(
    r"(?:\w+ .* -)?(BUSY|LOADING|READONLY|OOM|MISCONF|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|TRYAGAIN|NOAUTH)\b", re.DOTALL
)

# Of these, what a new connection may mend: the name may lead to the new primary, the password may be right again.
_MISDIRECTED = re.compile(r"(?:\w+ .* -)?(READONLY|MASTERDOWN|NOAUTH)\b", re.DOTALL)

Command = Sequence[bytes | str | int]
pack = cast(Callable[[tuple[bytes | str | int, ...]], bytes], hiredis.pack_command)  # its stub knows one-tuples only


class MeterUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """Redis did not answer in time, cannot serve, or there is no connection. The command may or may not have run."""


class NotSent(MeterUnavailable):
    """There is no connection, or too much waits on it. The command has certainly not run."""


class MeterError(Exception):
    """Redis answered with an error that waiting does not mend: a bug, or a missing permission."""


class UnsupportedServer(Exception):  # noqa: N818 - it names what was found
    """The server is older than the scripts need."""


class Script:
    """A Lua script by its SHA-1, as EVALSHA wants it, and its source for a server that has lost it."""

    def __init__(self, source: str, name: str = metrics.OTHER) -> None:
        self.source = source
        self.seconds = BufferedHistogram(metrics.METER_CALL.labels(name), metrics.CALL_SECONDS)
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest().encode()

    @classmethod
    def load(cls, name: str) -> Script:
        return cls((Path(__file__).parent / f"{name}.lua").read_text(), name)


class Link:
    """A connection that reconnects by itself."""

    def __init__(self, url: str, *, timeout_seconds: float, scripts: Sequence[Script] = ()) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._scripts = tuple(scripts)
        self._pipe: _Pipe | None = None
        self._previous: _Client | None = None
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
            with suppress(asyncio.CancelledError):
                await self._reconnecting
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            pipe.drop("closed")

    async def call(self, command: Command) -> Any:
        """Sends one command and gives its reply. Raises MeterUnavailable or MeterError."""
        pipe = self._pipe
        if pipe is None:
            raise NotSent("not connected to Redis")
        reply = await pipe.send(pack(tuple(command)))
        if isinstance(reply, hiredis.ReplyError):
            message = str(reply)
            if _MISDIRECTED.match(message):
                pipe.drop("Redis serves elsewhere")
            raise _error(message)
        return reply

    async def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Sends commands in one write and gives their replies. Raises what the first to fail raises; others may run."""
        return await asyncio.gather(*(self.call(command) for command in commands))

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Command) -> Any:
        """Runs a script by its digest; a server that has forgotten it is sent the source, once."""
        started = monotonic_seconds()
        try:
            return await self.call((b"EVALSHA", script.sha, len(keys), *keys, *arguments))
        except MeterError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        finally:
            script.seconds.observe(monotonic_seconds() - started)
        return await self.call((b"EVAL", script.source, len(keys), *keys, *arguments))

    async def _connect(self) -> _Pipe:
        pool = ConnectionPool.from_url(self._url, protocol=2, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS)
        connection = pool.make_connection()  # type: ignore[no-untyped-call] # redis-py leaves it bare
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await connection.connect()
                await self._greet(connection)
            return _Pipe(_take_over(connection), self._timeout_seconds, on_lost=self._lost)
        except (RedisError, OSError, EOFError, ValueError) as error:  # ValueError: answers that are not Redis's
            await connection.disconnect(nowait=True)
            raise MeterUnavailable(f"cannot connect to Redis: {str(error) or 'no answer in time'}") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _greet(self, connection: AbstractConnection) -> None:
        server = _fields(await _ask(connection, "INFO", "server"))
        _check_version(server)
        if _fields(await _ask(connection, "INFO", "replication")).get("role") == "slave":
            raise MeterUnavailable("cannot connect to Redis: it is a read-only replica")
        for script in self._scripts:
            await _ask(connection, "SCRIPT", "LOAD", script.source)
        client = _Client(server.get("run_id", ""), await _ask(connection, "CLIENT", "ID"))
        if self._previous is not None and self._previous.run_id == client.run_id:
            await _drop(connection, self._previous)
        self._previous = client

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


class _Client(NamedTuple):
    """One of our connections as the server knows it; ids begin anew with each run of a server."""

    run_id: str
    id: int


class _Pipe(asyncio.Protocol):
    """A connected socket: a buffer going out, a deque of futures coming back, one deadline for the oldest.

    A server that stops reading fills our write buffer no longer than until that deadline.
    """

    def __init__(
        self, stream: asyncio.StreamWriter, timeout_seconds: float, *, on_lost: Callable[[_Pipe], None]
    ) -> None:
        self._stream = stream  # closes its transport when it is collected
        self._timeout_seconds = timeout_seconds
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Future[Any] | None = None
        self._lost = False
        self._transport = cast(asyncio.Transport, stream.transport)
        if self._transport.is_closing():
            raise ConnectionResetError("closed by the server")  # its loss was reported to redis-py, never to us
        self._transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"{len(self._pending)} pending"

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        if self._lost or len(self._pending) >= MAX_PENDING:
            raise NotSent("Redis does not keep up" if not self._lost else "connection to Redis lost")
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        future = self._loop.create_future()
        self._pending.append((future, self._loop.time() + self._timeout_seconds))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_seconds, self._check_oldest)
        return future

    def drop(self, reason: str) -> None:
        """Gives the connection up, and with it every call under way."""
        self._fail(reason)

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
        oldest, deadline = self._pending[0]
        wait = deadline - self._loop.time()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._check_oldest)
        elif self._overdue is not oldest:
            # A busy loop runs its timers late and before it reads: look into the socket once before blaming Redis.
            self._overdue = oldest
            self._timer = self._loop.call_later(READ_FIRST_SECONDS, self._check_oldest)
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


def _take_over(connection: AbstractConnection) -> asyncio.StreamWriter:
    """The socket that redis-py has connected and authenticated; from here on it is ours alone to close."""
    stream = cast(asyncio.StreamWriter, connection._writer)  # noqa: SLF001 - redis-py has no other way to hand it over
    connection._reader = connection._writer = None  # noqa: SLF001
    return stream


async def _ask(connection: AbstractConnection, *command: bytes | str | int) -> Any:
    await connection.send_command(*command)
    return await connection.read_response(disable_decoding=True)


async def _drop(connection: AbstractConnection, client: _Client) -> None:
    """Makes the server close a connection of ours that we have left. Without it a command that a slow network or a
    frozen server still holds could be executed after its own settlement.
    """
    with suppress(ResponseError):  # it is gone already, or we may not: then the hold waits for the sweeper
        await _ask(connection, "CLIENT", "KILL", "ID", client.id)


def _error(message: str) -> MeterUnavailable | MeterError:
    return MeterUnavailable(f"Redis cannot serve: {message}") if _OUTAGE.match(message) else MeterError(message)


def _fields(info: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)


def _check_version(server: Mapping[str, str]) -> None:
    is_valkey = "valkey_version" in server
    name, minimum = ("Valkey", MIN_VALKEY) if is_valkey else ("Redis", MIN_REDIS)
    version = server.get("valkey_version" if is_valkey else "redis_version", "")
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < minimum:
        needed = ".".join(map(str, minimum))
        raise UnsupportedServer(f"{name} {version or 'of unknown version'} is too old: {name} >= {needed} is needed")
