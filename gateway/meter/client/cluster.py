"""A cluster of Redis servers: one connection to each master, every command to the one that has its keys.

The slot map comes from the nodes. It may be out of date at any moment, and then they correct it: a MOVED redirection is
followed and changes the map, an ASK redirection is followed once, TRYAGAIN is retried. All three mean that the command
has not run. A lost connection, or a master that was demoted, starts a refresh of the map, which ends when every slot's
master is connected.

A command that a node may have run is never sent again, and no call lasts longer than `timeout_seconds`, however often
it is redirected. May refuse wrongly while slots move, never runs anything twice.
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

MAX_REDIRECTIONS = 5  # as in Jedis; more than two in a row mean that the nodes disagree
RETRY_SECONDS = 0.01  # before a retry while keys migrate
REFRESH_SECONDS = (0.1, 0.1, 0.2, 0.5)  # between two refreshes of the map
SLOW_NODE_SECONDS = 0.5  # how long a refresh waits for slow nodes after the first reply

_SLOTS, _NODES = (b"CLUSTER", b"SLOTS"), (b"CLUSTER", b"NODES")
_ASKING = pack((b"ASKING",))
_WITH_COUNT = frozenset((b"EVALSHA", b"EVAL"))  # their keys come behind a count


class Cluster:
    """The nodes by address, and the address of each slot's master."""

    def __init__(self, url: ClusterUrl, *, timeout_seconds: float, scripts: Sequence[str] = ()) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._scripts = tuple(scripts)
        self._nodes: dict[Address, ServerConnection] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._known: frozenset[Address] = frozenset(url.seeds)
        self._routes: dict[bytes, ServerConnection] = {}  # by hash tag; each partition has one
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
        """The connection that commands on this key use now; None without a node or a connection to it."""
        try:
            return self._route(key).connection()
        except NotSent:
            return None

    async def open(self) -> None:
        """Connects to all masters that reply. Raises MeterUnavailable if none does, UnsupportedServer."""
        self._install(await self._read_map())
        nodes = list(self._nodes.values())
        outcomes = await asyncio.gather(*(node.open() for node in nodes), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        unusable = [failure for failure in failures if not isinstance(failure, MeterUnavailable)]
        if unusable or len(failures) == len(nodes):
            await self.close()
            raise (unusable or failures or [MeterUnavailable("cannot connect to Redis: no server has slots")])[0]
        if failures:
            self._refresh_soon()  # connects to them as well

    async def close(self) -> None:
        self._closed = True
        tasks = [*self._retiring, *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def call(self, command: Command) -> Coroutine[Any, Any, Any]:
        """Sends one command to the node that has its key. Raises MeterUnavailable or MeterError."""
        return self.request(pack(tuple(command)), _key(command))

    async def request(self, packed: bytes, key: bytes | None) -> Any:
        """Sends a packed command by its first key; None for a command that any node may run. Raises as `call` does."""
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
        """The node at the address; a new one is not connected yet."""
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
        """Follows the redirections of a command that a node has refused, until it runs or time is up."""
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
        """The node to try after this refusal. Raises what the error means if it is no redirection."""
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
                # Some keys of the slot are still migrating; or the node was demoted, and refuses a script's first
                # write, so nothing has run.
                self._refresh_soon()
                await asyncio.sleep(RETRY_SECONDS)
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
        """Reads the map, and again while a master is not connected: a replica may have been promoted."""
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
        """From the connected nodes; if none of them replies, from any known address."""
        connected = [node for node in self._nodes.values() if node.is_connected]
        views, _ = await _first_views(_view_of(node) for node in connected)
        if not views:
            places = self._known | set(self._url.seeds)
            views, failures = await _first_views(_view_at(self._url.of(place), place) for place in places)
            if not views:
                raise failures[0]
        return views

    def _install(self, views: Sequence[View]) -> None:
        """Uses this map from now on. Closes the connection to a node without slots after its last replies."""
        self._known = frozenset().union(*(each.addresses for each in views))
        self._owners = owners(views)
        self._routes.clear()
        masters = {owner for owner in self._owners if owner is not None}
        for address in masters:
            self._member(address)
        for address in self._nodes.keys() - masters:
            self._retire(self._nodes.pop(address))

    def _retire(self, node: ServerConnection) -> None:
        task = asyncio.get_running_loop().create_task(self._close_after_replies(node))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_after_replies(self, node: ServerConnection) -> None:
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
    """ASKING applies to the next command of its connection, so nothing may come between them."""
    if asking:
        node.send(_ASKING).cancel()  # its reply is discarded, and keeps its place among the replies
    return node.send(packed)


async def _first_views(readings: Iterable[Coroutine[Any, Any, View]]) -> tuple[list[View], list[Exception]]:
    """The views that arrive until SLOW_NODE_SECONDS after the first one, and what the others raised."""
    waiting = {asyncio.ensure_future(reading) for reading in readings}
    views: list[View] = []
    failures: list[Exception] = []
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=SLOW_NODE_SECONDS if views else None, return_when=asyncio.FIRST_COMPLETED
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
    """Over the existing connection."""
    replies = await asyncio.gather(node.call(_SLOTS), node.call(_NODES))
    return view(*replies, asked=node.address)


async def _view_at(url: str, place: Address) -> View:
    """Over a temporary connection, so that a replica can serve too."""
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
