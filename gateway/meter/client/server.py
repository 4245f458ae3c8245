"""The connection to one Redis server, which reconnects by itself.

redis-py connects (URL, TLS, AUTH, database), then a `PipelinedConnection` takes the socket.

A command gets its reply within `timeout_seconds` or raises MeterUnavailable; without a connection it raises at once. A
command that timed out may or may not have run. Before a new connection serves, the server is told to close the old one,
so no command of the old one runs after a command of the new one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
NO_EVICTION = "noeviction"


class ServerConnection:
    """Reconnects by itself, calls `on_lost` after each loss, and loads `scripts` before it serves.

    With an `address` it is the connection to a node of a cluster. `locate` gives the URL for each connection, where it
    changes.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        scripts: Sequence[str] = (),
        address: Address | None = None,
        locate: Callable[[], Awaitable[str]] | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._scripts = tuple(scripts)
        self._address = address
        self._locate = locate
        self._on_lost = on_lost
        self._pipe: PipelinedConnection | None = None
        self._previous: _Client | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return "closed" if self._closed else repr(self._pipe or "disconnected").strip("'")

    @property
    def is_connected(self) -> bool:
        return self._pipe is not None and not self._pipe.is_late

    def connection(self, key: bytes = b"") -> object | None:  # noqa: ARG002 - the signature of `Cluster`
        """The present connection: another object after every reconnection."""
        return self._pipe

    @property
    def address(self) -> Address:
        """The address in the cluster. Raises LookupError for a single server."""
        if self._address is None:
            raise LookupError("not part of a cluster")
        return self._address

    async def open(self) -> None:
        """Connects. Raises MeterUnavailable if nothing answers, UnsupportedServer if the wrong thing does."""
        self._pipe = await self._connect(is_first=True)

    def connect(self) -> None:
        """Connects in the background, and retries until it is closed."""
        if self._pipe is None and self._reconnecting is None and not self._closed:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def connected(self) -> None:
        """Returns when it is connected, however long that takes."""
        self.connect()
        if self._reconnecting is not None:
            await asyncio.wait((self._reconnecting,))  # a cancelled waiter does not cancel it

    async def close(self) -> None:
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._reconnecting
        self.drop("closed")

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """A future of the reply. Raises NotSent; the future raises MeterUnavailable.

        An error reply raises MeterUnavailable or MeterError; in a cluster, which may redirect, it is a reply.
        """
        if self._pipe is None:
            raise NotSent("not connected to Redis")
        return self._pipe.send(packed)

    async def call(self, command: Command) -> Any:
        """Sends one command and gives its reply. Raises MeterUnavailable or MeterError."""
        reply = await self.send(pack(tuple(command)))
        if isinstance(reply, hiredis.ReplyError):
            raise self._failure_of(reply)
        return reply

    def request(self, packed: bytes, key: bytes | None) -> asyncio.Future[Any]:  # noqa: ARG002 - as of `Cluster`
        """Sends a packed command. Raises as `call` does."""
        if self._pipe is None:
            raise NotSent("not connected to Redis")
        return self._pipe.send(packed)

    def _failure_of(self, reply: hiredis.ReplyError) -> Exception:
        """What an error reply means. A server that cannot serve is left after the replies it sent with it."""
        message = str(reply)
        if is_misdirected(message):
            asyncio.get_running_loop().call_soon(self.drop, "Redis serves elsewhere")
        return failure(message)

    def drop(self, reason: str) -> None:
        """Closes the present connection, and fails every command that is pending on it."""
        if self._pipe is not None:
            self._pipe.drop(reason)

    async def _connect(self, *, is_first: bool = False) -> PipelinedConnection:
        connection = await dial(self._url if self._locate is None else await self._locate())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._greet(connection)
                if is_first:  # not later: whoever changes a setting of a running server stops no gateway by it
                    _check_eviction(_fields(await ask(connection, "INFO", "memory")))
            failure_of = self._failure_of if self._address is None else None
            return PipelinedConnection(
                take_over(connection), self._timeout_seconds, on_lost=self._lost, failure_of=failure_of
            )
        except (RedisError, OSError, EOFError, ValueError) as error:
            await connection.disconnect(nowait=True)
            raise unreachable(error) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _greet(self, connection: AbstractConnection) -> None:
        """Checks the server and loads the scripts, in one round trip, since calls are refused until it is over."""
        asked = [("INFO", "server"), ("INFO", "replication"), ("CLIENT", "ID")]
        loading = [("SCRIPT", "LOAD", script) for script in self._scripts]
        await connection.send_packed_command(connection.pack_commands([*asked, *loading]))
        server = _fields(await _reply(connection))
        _check_version(server)
        _check_mode(server, in_cluster=self._address is not None)
        if _fields(await _reply(connection)).get("role") == "slave":
            raise MeterUnavailable("cannot connect to Redis: it is a read-only replica")
        client = _Client(server.get("run_id", ""), await _reply(connection))
        for _ in loading:
            await _reply(connection)
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
    """A connection of this process as the server knows it; ids restart with each run of a server."""

    run_id: str
    id: int


async def dial(url: str) -> AbstractConnection:
    """An authenticated connection of redis-py. Raises MeterUnavailable."""
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
    """For RedisError, OSError, EOFError, and ValueError, which invalid replies raise."""
    return MeterUnavailable(f"cannot connect to Redis: {str(error) or 'no answer in time'}")


async def ask(connection: AbstractConnection, *command: bytes | str | int) -> Any:
    """Sends one command by redis-py, before the connection is pipelined. Raises RedisError, OSError."""
    await connection.send_command(*command)
    return await _reply(connection)


async def _reply(connection: AbstractConnection) -> Any:
    return await connection.read_response(disable_decoding=True)


async def _drop(connection: AbstractConnection, client: _Client) -> None:
    """Makes the server close a lost connection of this process.

    Without it a command that a slow network or a frozen server still buffers could run after its own settlement.
    """
    with suppress(ResponseError):  # it is closed already, or ACL forbids it: then the sweeper settles a late hold
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


def _check_eviction(memory: Mapping[str, str]) -> None:
    """Accounts are loaded again, but nothing brings back a journal entry, a claim or a lease that was evicted."""
    policy, limit = memory.get("maxmemory_policy", NO_EVICTION), memory.get("maxmemory", "0")
    if policy != NO_EVICTION and limit != "0":
        raise UnsupportedServer(
            f"the server evicts keys (maxmemory-policy {policy}), and with them calls that are not billed yet:"
            f" set maxmemory-policy {NO_EVICTION}"
        )


def _check_mode(server: Mapping[str, str], *, in_cluster: bool) -> None:
    """A node of a cluster serves its own slots only, and redirects; a client of a single server cannot follow."""
    mode = server.get("server_mode") or server.get("redis_mode")
    is_cluster = mode == "cluster"
    if mode == "sentinel":
        raise UnsupportedServer("the server is a sentinel: name it as redis+sentinel://host:26379/NAME in redis.url")
    if is_cluster and not in_cluster:
        raise UnsupportedServer("the server is a node of a cluster: name it as redis+cluster:// in redis.url")
    if in_cluster and not is_cluster:
        raise UnsupportedServer("the server is no node of a cluster: name it as redis:// in redis.url")
