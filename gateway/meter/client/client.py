"""The client of Redis: one server or a cluster by the URL, one pipelined connection to each server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from gateway.clock import monotonic_seconds
from gateway.meter.client.cluster import Cluster
from gateway.meter.client.errors import MeterError
from gateway.meter.client.packing import Command, opening, words
from gateway.meter.client.sentinel import SentinelUrl
from gateway.meter.client.server import ServerConnection
from gateway.meter.client.topology import ClusterUrl
from gateway.meter.scripts import Script


class RedisClient:
    """Sends commands and scripts. `url` is redis://, redis+sentinel:// or redis+cluster://, or rediss for TLS.

    Every command names keys of one hash tag only; in a cluster it goes to the node that has their slot.
    `connection(key)` is the connection that commands on this key use now: another object after every reconnection.
    """

    def __init__(self, url: str, *, timeout_seconds: float, scripts: Sequence[Script] = ()) -> None:
        sources = [script.source for script in scripts]
        named = ClusterUrl.parse(url)
        self._server: ServerConnection | Cluster
        if named is None:
            sentinels = SentinelUrl.parse(url)
            locate = sentinels.locate if sentinels is not None else None
            self._server = ServerConnection(url, timeout_seconds=timeout_seconds, scripts=sources, locate=locate)
        else:
            self._server = Cluster(named, timeout_seconds=timeout_seconds, scripts=sources)
        self._call = self._server.call
        self._request = self._server.request
        self.connection: Callable[[bytes], object | None] = self._server.connection

    def __repr__(self) -> str:
        return f"<RedisClient {self._server}>"

    @property
    def is_connected(self) -> bool:
        """In a cluster: to every node that has slots."""
        return self._server.is_connected

    async def open(self) -> None:
        """Connects. Raises MeterUnavailable if nothing answers, UnsupportedServer if the wrong thing does."""
        await self._server.open()

    async def close(self) -> None:
        await self._server.close()

    def call(self, command: Command) -> Coroutine[Any, Any, Any]:
        """Sends one command and gives its reply. Raises MeterUnavailable or MeterError.

        In a cluster a command without a key goes to any node.
        """
        return self._call(command)

    async def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Sends commands in one write to each server and gives their replies.

        Raises what the first failure raises; the other commands may run.
        """
        return await asyncio.gather(*(self._call(command) for command in commands))

    def run(self, script: Script, keys: Sequence[bytes], arguments: Command) -> Coroutine[Any, Any, Any]:
        """Runs a script by its digest, or by its source on a server that does not have it. Raises as `call` does."""
        packed = words(len(keys), *keys, *arguments)
        return self.run_packed(script, keys[0] if keys else None, 1 + len(keys) + len(arguments), packed)

    async def run_packed(self, script: Script, key: bytes | None, count: int, packed: bytes) -> Any:
        """Runs a script with `count` packed words: the number of keys, the keys, of which `key` is first, arguments."""
        started = monotonic_seconds()
        try:
            return await self._request(opening(2 + count, script.by_digest) + packed, key)
        except MeterError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        finally:
            script.seconds.observe(monotonic_seconds() - started)
        return await self._request(opening(2 + count, script.by_source) + packed, key)
