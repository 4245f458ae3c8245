"""One server of Redis and the connection to it, which is made again whenever it is lost.

redis-py connects (URL, TLS, AUTH, database), then the socket is handed to a `PipelinedConnection`.

Failing is declared: a command answers within `timeout_seconds` or raises MeterUnavailable, and without a connection it
raises at once. A command that timed out may still have been executed, or not; but before a new connection serves, the
server is made to drop the old one, so that nothing of the old one is executed after anything of the new one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from gateway.meter.client.connection import PipelinedConnection, take_over
from gateway.meter.client.errors import MeterUnavailable, NotSent, UnsupportedServer, failure, is_misdirected
from gateway.meter.client.packing import Command, pack
from gateway.meter.client.topology import Address

RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
CONNECT_TIMEOUT_SECONDS = 2.0
MIN_REDIS = (6, 2)
MIN_VALKEY = (7, 2)


class ServerConnection:
    """A connection that reconnects by itself. `on_lost` is told of each loss; `scripts` are loaded before it serves.

    One with an `address` is part of a cluster.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        scripts: Sequence[str] = (),
        address: Address | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._scripts = tuple(scripts)
        self._address = address
        self._on_lost = on_lost
        self._pipe: PipelinedConnection | None = None
        self._previous: _Client | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return "closed" if self._closed else repr(self._pipe or "disconnected").strip("'")

    @property
    def is_connected(self) -> bool:
        return self._pipe is not None

    def connection(self, key: bytes = b"") -> object | None:  # noqa: ARG002 - as `Cluster` is asked
        """What commands go by at present; another object after every reconnection."""
        return self._pipe

    @property
    def address(self) -> Address:
        """Of a node of a cluster."""
        if self._address is None:
            raise LookupError("not part of a cluster")
        return self._address

    async def open(self) -> None:
        """Connects. Raises MeterUnavailable if nothing answers, UnsupportedServer if the wrong thing does."""
        self._pipe = await self._connect()

    def connect(self) -> None:
        """Connects in the background, and tries until it is closed."""
        if self._pipe is None and self._reconnecting is None and not self._closed:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def connected(self) -> None:
        """Returns when it is, however long that takes."""
        self.connect()
        if self._reconnecting is not None:
            await asyncio.wait((self._reconnecting,))  # whoever waits goes away without taking it along

    async def close(self) -> None:
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._reconnecting
        self.drop("closed")

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """The reply to come: a value, or a hiredis.ReplyError. Raises NotSent; the future may fail MeterUnavailable."""
        if self._pipe is None:
            raise NotSent("not connected to Redis")
        return self._pipe.send(packed)

    def call(self, command: Command) -> Coroutine[Any, Any, Any]:
        """Sends one command and gives its reply. Raises MeterUnavailable or MeterError."""
        return self.request(pack(tuple(command)))

    async def request(self, packed: bytes, key: bytes | None = None) -> Any:  # noqa: ARG002 - as `Cluster` is asked
        """The same for a command that is packed."""
        pipe = self._pipe
        if pipe is None:
            raise NotSent("not connected to Redis")
        reply = await pipe.send(packed)
        if isinstance(reply, hiredis.ReplyError):
            message = str(reply)
            if is_misdirected(message):
                pipe.drop("Redis serves elsewhere")
            raise failure(message)
        return reply

    def drop(self, reason: str) -> None:
        """Gives the present connection up, and with it every call under way on it."""
        if self._pipe is not None:
            self._pipe.drop(reason)

    async def _connect(self) -> PipelinedConnection:
        connection = await dial(self._url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._greet(connection)
            return PipelinedConnection(take_over(connection), self._timeout_seconds, on_lost=self._lost)
        except (RedisError, OSError, EOFError, ValueError) as error:
            await connection.disconnect(nowait=True)
            raise unreachable(error) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _greet(self, connection: AbstractConnection) -> None:
        server = _fields(await ask(connection, "INFO", "server"))
        _check_version(server)
        _check_mode(server, in_cluster=self._address is not None)
        if _fields(await ask(connection, "INFO", "replication")).get("role") == "slave":
            raise MeterUnavailable("cannot connect to Redis: it is a read-only replica")
        for script in self._scripts:
            await ask(connection, "SCRIPT", "LOAD", script)
        client = _Client(server.get("run_id", ""), await ask(connection, "CLIENT", "ID"))
        if self._previous is not None and self._previous.run_id == client.run_id:
            await _drop(connection, self._previous)
        self._previous = client

    def _lost(self, pipe: PipelinedConnection) -> None:
        if pipe is self._pipe:
            self._pipe = None
            if not self._closed:
                self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())
                self._on_lost()

    async def _reconnect(self) -> None:
        attempt = 0
        while True:
            try:
                self._pipe = await self._connect()
                self._reconnecting = None
                return
            except (MeterUnavailable, UnsupportedServer):
                await asyncio.sleep(RECONNECT_SECONDS[min(attempt, len(RECONNECT_SECONDS) - 1)])
                attempt += 1


class _Client(NamedTuple):
    """One of our connections as the server knows it; ids begin anew with each run of a server."""

    run_id: str
    id: int


async def dial(url: str) -> AbstractConnection:
    """A connection of redis-py's, authenticated. Raises MeterUnavailable."""
    pool = ConnectionPool.from_url(url, protocol=2, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS)
    connection = pool.make_connection()  # type: ignore[no-untyped-call] # redis-py leaves it bare
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await connection.connect()
        return cast(AbstractConnection, connection)
    except (RedisError, OSError, EOFError, ValueError) as error:
        await connection.disconnect(nowait=True)
        raise unreachable(error) from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


def unreachable(error: Exception) -> MeterUnavailable:
    """Of RedisError, OSError, EOFError, and ValueError: answers that are not Redis's."""
    return MeterUnavailable(f"cannot connect to Redis: {str(error) or 'no answer in time'}")


async def ask(connection: AbstractConnection, *command: bytes | str | int) -> Any:
    """One command before the socket is a pipe's. Raises RedisError, OSError."""
    await connection.send_command(*command)
    return await connection.read_response(disable_decoding=True)


async def _drop(connection: AbstractConnection, client: _Client) -> None:
    """Makes the server close a connection of ours that we have left. Without it a command that a slow network or a
    frozen server still holds could be executed after its own settlement.
    """
    with suppress(ResponseError):  # it is gone already, or we may not: then the hold waits for the sweeper
        await ask(connection, "CLIENT", "KILL", "ID", client.id)


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


def _check_mode(server: Mapping[str, str], *, in_cluster: bool) -> None:
    """A node of a cluster serves its own slots only, and refers to others, whom a single link cannot follow."""
    is_cluster = "cluster" in (server.get("server_mode"), server.get("redis_mode"))
    if is_cluster and not in_cluster:
        raise UnsupportedServer("the server is a node of a cluster: name it as redis+cluster:// in redis.url")
    if in_cluster and not is_cluster:
        raise UnsupportedServer("the server is no node of a cluster: name it as redis:// in redis.url")
