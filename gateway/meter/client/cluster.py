"""A cluster of Redis servers: one connection to each master, every command to the one that has its keys.

The map of slots is learned from the servers. It may be out of date at any moment, so they correct it: MOVED is followed
and learned from, ASK is followed for this once, TRYAGAIN is asked again. All three mean that the command has not run.
Whoever loses a connection or its place as master makes the map be read again, until every slot's master is connected.

A command that a server may have taken is never sent again, and no call lasts longer than `timeout_seconds`, however
often it is sent on. May refuse wrongly while slots move, never runs anything twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

import hiredis
from redis.exceptions import RedisError, ResponseError

from gateway.clock import monotonic_seconds
from gateway.meter.client.errors import (
    MeterError,
    MeterUnavailable,
    NotSent,
    UnsupportedServer,
    failure,
    is_misdirected,
)
from gateway.meter.client.packing import Command, pack
from gateway.meter.client.server import CONNECT_TIMEOUT_SECONDS, ServerConnection, ask, dial, unreachable
from gateway.meter.client.topology import SLOTS, Address, ClusterUrl, View, key_slot, owners, redirection, view

MAX_REDIRECTIONS = 5  # as in Jedis; more than two in a row are a cluster that does not agree with itself
PAUSE_SECONDS = 0.01  # before asking again while keys are on their way
REFRESH_SECONDS = (0.1, 0.1, 0.2, 0.5)  # between two readings of the map
ANSWER_SECONDS = 0.5  # how long a reading waits for servers that are slow, once one has answered

_SLOTS, _NODES = (b"CLUSTER", b"SLOTS"), (b"CLUSTER", b"NODES")
_ASKING = pack((b"ASKING",))
_WITH_COUNT = frozenset((b"EVALSHA", b"EVAL"))  # their keys come behind a count


class Cluster:
    """Nodes by address, and a node for each slot."""

    def __init__(self, url: ClusterUrl, *, timeout_seconds: float, scripts: Sequence[str] = ()) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._scripts = tuple(scripts)
        self._nodes: dict[Address, ServerConnection] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._known: frozenset[Address] = frozenset(url.seeds)
        self._routes: dict[bytes, ServerConnection] = {}  # by hash tag, of which there is one for each partition
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._retiring: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return ", ".join(f"{address} {node}" for address, node in sorted(self._nodes.items())) or "no nodes"

    @property
    def is_connected(self) -> bool:
        return bool(self._nodes) and all(node.is_connected for node in self._nodes.values())

    def connection(self, key: bytes) -> object | None:
        """What commands on this key go by at present; None without a server or without a connection to it."""
        try:
            return self._route(key).connection()
        except NotSent:
            return None

    async def open(self) -> None:
        """Connects to all masters that answer. Raises MeterUnavailable if none does, UnsupportedServer."""
        self._install(await self._read_map())
        nodes = list(self._nodes.values())
        outcomes = await asyncio.gather(*(node.open() for node in nodes), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        unusable = [failure for failure in failures if not isinstance(failure, MeterUnavailable)]
        if unusable or len(failures) == len(nodes):
            await self.close()
            raise (unusable or failures or [MeterUnavailable("cannot connect to Redis: no server has slots")])[0]
        if failures:
            self._refresh_soon()  # which connects to them as well

    async def close(self) -> None:
        self._closed = True
        tasks = [*self._retiring, *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def call(self, command: Command) -> Coroutine[Any, Any, Any]:
        """Sends one command to the server that has its key. Raises MeterUnavailable or MeterError."""
        return self.request(pack(tuple(command)), _key(command))

    async def request(self, packed: bytes, key: bytes | None) -> Any:
        """The same for a command that is packed, by its first key; None for one that any server answers."""
        started = monotonic_seconds()
        node = self._any() if key is None else self._route(key)
        reply = await node.send(packed)
        if isinstance(reply, hiredis.ReplyError):
            return await self._follow(str(reply), node, packed, key=key, until=started + self._timeout_seconds)
        return reply

    def _any(self) -> ServerConnection:
        for node in self._nodes.values():
            if node.is_connected:
                return node
        raise NotSent("not connected to Redis")

    def _route(self, key: bytes) -> ServerConnection:
        start = key.find(b"{")
        tag = key[start + 1 : key.find(b"}", start + 1)] if start >= 0 else b""
        node = self._routes.get(tag)
        if node is None:
            slot = key_slot(key)
            owner = self._owners[slot]
            if owner is None:
                self._refresh_soon()
                raise NotSent(f"no server of the cluster has slot {slot}")
            node = self._member(owner)
            if tag:
                self._routes[tag] = node
        return node

    def _member(self, address: Address) -> ServerConnection:
        """The node there; a new one is still to be connected."""
        node = self._nodes.get(address)
        if node is None:
            node = ServerConnection(
                self._url.of(address),
                timeout_seconds=self._timeout_seconds,
                scripts=self._scripts,
                address=address,
                on_lost=self._refresh_soon,
            )
            self._nodes[address] = node
        return node

    async def _follow(
        self, error: str, node: ServerConnection, packed: bytes, *, key: bytes | None, until: float
    ) -> Any:
        """Sends a command on that a server has refused, as often as it is refused, until it is taken or time is up."""
        redirections, is_under_way = 0, False
        try:
            async with asyncio.timeout(until - monotonic_seconds()):
                while redirections < MAX_REDIRECTIONS:
                    redirections += error.startswith(("MOVED ", "ASK "))
                    node = await self._next(error, node, key)
                    future = _send(node, packed, asking=error.startswith("ASK "))
                    is_under_way = True
                    reply = await future
                    if not isinstance(reply, hiredis.ReplyError):
                        return reply
                    error, is_under_way = str(reply), False
        except TimeoutError:
            if is_under_way:
                raise MeterUnavailable("Redis did not answer in time") from None
        raise NotSent(f"Redis cannot serve: {error}")

    async def _next(self, error: str, node: ServerConnection, key: bytes | None) -> ServerConnection:
        """Who is to be asked after this refusal. Raises what the error means if it is none that leads anywhere."""
        match error.partition(" ")[0]:
            case "MOVED":
                slot, address = redirection(error, asked=node.address)
                self._owners[slot] = address
                self._routes.clear()
                self._refresh_soon()
                return await self._connected(address)
            case "ASK":
                return await self._connected(redirection(error, asked=node.address)[1])
            case "TRYAGAIN" | "READONLY" if key is not None:
                # Some keys of the slot are still to come; or the server has just been demoted, and says so at a
                # script's first write, before anything was written.
                self._refresh_soon()
                await asyncio.sleep(PAUSE_SECONDS)
                return self._route(key)
            case "CLUSTERDOWN":
                self._refresh_soon()
                raise NotSent(f"Redis cannot serve: {error}")
        if is_misdirected(error):
            node.drop("Redis serves elsewhere")
        raise failure(error)

    async def _connected(self, address: Address) -> ServerConnection:
        node = self._member(address)
        await node.connected()
        return node

    def _refresh_soon(self) -> None:
        if self._refreshing is None and not self._closed:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        """Reads the map again, and as long as a master is not connected: another may have taken its place."""
        attempt = 0
        try:
            while attempt == 0 or not self.is_connected:
                pause = REFRESH_SECONDS[min(attempt, len(REFRESH_SECONDS) - 1)]
                await asyncio.sleep(max(0, self._refreshed_at + pause - monotonic_seconds()))
                with suppress(MeterUnavailable, MeterError, UnsupportedServer):
                    self._install(await self._read_map())
                for node in self._nodes.values():
                    node.connect()
                self._refreshed_at = monotonic_seconds()
                attempt += 1
        finally:
            self._refreshing = None

    async def _read_map(self) -> list[View]:
        """From the servers we are connected to; if none of them answers, from any that we have heard of."""
        connected = [node for node in self._nodes.values() if node.is_connected]
        views, _ = await _first_answers(_view_of(node) for node in connected)
        if not views:
            places = self._known | set(self._url.seeds)
            views, failures = await _first_answers(_view_at(self._url.of(place), place) for place in places)
            if not views:
                raise failures[0]
        return views

    def _install(self, views: Sequence[View]) -> None:
        """Serves by this map from now on. A server without slots is left when it has answered what it was asked."""
        self._known = frozenset().union(*(each.addresses for each in views))
        self._owners = owners(views)
        self._routes.clear()
        masters = {owner for owner in self._owners if owner is not None}
        for address in masters:
            self._member(address)
        for address in self._nodes.keys() - masters:
            self._retire(self._nodes.pop(address))

    def _retire(self, node: ServerConnection) -> None:
        task = asyncio.get_running_loop().create_task(self._close_later(node))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_later(self, node: ServerConnection) -> None:
        try:
            await asyncio.sleep(self._timeout_seconds)
        finally:
            await node.close()


def _key(command: Command) -> bytes | None:
    """The first key, which decides where all of them are."""
    if command[0] in _WITH_COUNT:
        key = command[3] if command[2] else None
    else:
        key = command[1] if len(command) > 1 else None
    return key if key is None or isinstance(key, bytes) else str(key).encode()


def _send(node: ServerConnection, packed: bytes, *, asking: bool) -> asyncio.Future[Any]:
    """ASKING holds for the next command of its connection, so nothing may come between them."""
    if asking:
        node.send(_ASKING).cancel()  # nobody wants its reply; its place among the replies stays
    return node.send(packed)


async def _first_answers(readings: Iterable[Coroutine[Any, Any, View]]) -> tuple[list[View], list[Exception]]:
    """What several servers say: all that answer before the first has waited ANSWER_SECONDS for the others."""
    waiting = {asyncio.ensure_future(reading) for reading in readings}
    views: list[View] = []
    failures: list[Exception] = []
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=ANSWER_SECONDS if views else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for each in done:
                try:
                    views.append(each.result())
                except (MeterUnavailable, MeterError, UnsupportedServer) as error:
                    failures.append(error)
    finally:
        for each in waiting:
            each.cancel()
    return views, failures


async def _view_of(node: ServerConnection) -> View:
    """By the connection there is."""
    replies = await asyncio.gather(node.call(_SLOTS), node.call(_NODES))
    return view(*replies, asked=node.address)


async def _view_at(url: str, place: Address) -> View:
    """By a connection for this alone, so that replicas may be asked too."""
    connection = await dial(url)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            return view(await ask(connection, *_SLOTS), await ask(connection, *_NODES), asked=place)
    except ResponseError as error:
        raise UnsupportedServer(f"{place} is no node of a cluster: {error}") from error
    except (RedisError, OSError, EOFError, ValueError) as error:
        raise unreachable(error) from error
    finally:
        await connection.disconnect(nowait=True)
