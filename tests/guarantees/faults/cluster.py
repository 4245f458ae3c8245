"""A cluster of real servers on loopback whose slots a test may move and whose masters it may kill."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.embedded.binaries import find_valkey
from gateway.meter.client.topology import SLOTS, Address, key_slot

PASSWORD = "of the test's"
URL_PASSWORD = "of%20the%20test%27s"
NODE_TIMEOUT_SECONDS = 0.8
START_SECONDS = 30.0  # only a failure waits so long
BUS_OFFSET = 10_000  # Redis cluster specification, "The cluster bus"
INTRODUCTION_SECONDS = 8.0
MAX_INTRODUCTIONS = 5
_ASK_SECONDS = 0.02


class Server:
    """One process; `admin` reaches it directly."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self._folder = folder
        self.address = Address("127.0.0.1", port)
        self.admin = Redis(port=port, password=PASSWORD, socket_timeout=5)
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    def start(self) -> None:
        configuration = f"""
bind 127.0.0.1
port {self.address.port}
requirepass "{PASSWORD}"
primaryauth "{PASSWORD}"
cluster-enabled yes
cluster-node-timeout {NODE_TIMEOUT_SECONDS * 1000:.0f}
repl-diskless-sync-delay 0
appendonly yes
appendfsync no
save ""
maxmemory-policy noeviction
"""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_valkey(), "-"], cwd=self._folder, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        assert self._process.stdin is not None
        self._process.stdin.write(configuration.encode())
        self._process.stdin.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def ask(self, *command: Any) -> Any:
        return await self.admin.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py leaves it bare

    async def id(self) -> str:
        return str((await self.ask("CLUSTER", "MYID")).decode())

    async def is_ready(self) -> bool:
        with suppress(RedisConnectionError, ResponseError, TimeoutError):
            return bool(await self.admin.ping())
        return False

    async def is_master(self) -> bool:
        with suppress(RedisConnectionError, ResponseError, TimeoutError):
            return bool((await self.ask("ROLE"))[0] == b"master")
        return False

    async def state(self) -> dict[str, str]:
        with suppress(RedisConnectionError, TimeoutError):
            answer = await self.ask("CLUSTER", "INFO")
            return dict(answer) if isinstance(answer, dict) else _fields(answer)
        return {}

    async def end(self) -> None:
        await self.admin.aclose()
        self.kill()


class ClusterServers:
    """Masters with the slots in equal parts, then their replicas, if any, in the same order."""

    def __init__(self, servers: Sequence[Server], *, masters: int) -> None:
        self.servers = tuple(servers)
        self.originals = self.servers[:masters]

    @property
    def url(self) -> str:
        return f"redis+cluster://:{URL_PASSWORD}@{','.join(str(each.address) for each in self.servers[:3])}"

    async def form(self) -> None:
        await _until(_all_ready(self.servers))
        masters = len(self.originals)
        for number, server in enumerate(self.servers):
            await _do(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, server in enumerate(self.originals):
            first, last = SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            await _do(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
        await self._introduce()
        for number, server in enumerate(self.servers[masters:]):
            await server.ask("CLUSTER", "REPLICATE", await self.originals[number % masters].id())
        await self.settled()

    async def _introduce(self) -> None:
        """A handshake that a busy machine does not end within the node timeout is forgotten, so it is begun again."""
        for _ in range(MAX_INTRODUCTIONS):
            for server in self.servers[1:]:
                await self.servers[0].ask("CLUSTER", "MEET", *server.address)
            with suppress(TimeoutError):
                await _until(self._know_each_other, within_seconds=INTRODUCTION_SECONDS)
                return
        raise TimeoutError("the servers do not come to know each other")

    async def _know_each_other(self) -> bool:
        states = [await server.state() for server in self.servers]
        known = [state.get("cluster_known_nodes") for state in states]
        return known == [str(len(self.servers))] * len(self.servers)

    async def settled(self) -> None:
        """Returns once all slots are served and every replica has caught up with its master."""
        await _until(self._is_settled)

    async def _is_settled(self) -> bool:
        if {(await server.state()).get("cluster_state") for server in self.servers} != {"ok"}:
            return False
        replicas = [server for server in self.servers if not await server.is_master()]
        links = [(await replica.ask("ROLE"))[3] for replica in replicas]
        expected = len(self.servers) - len(self.originals)
        return len(replicas) == expected and all(link == b"connected" for link in links)

    async def masters(self) -> list[Server]:
        return [server for server in self.servers if await server.is_master()]

    async def owner(self, key: bytes) -> Server:
        """The master that serves the key."""
        slot = key_slot(key)
        for server in await self.masters():
            for first, last, (_, port, *_), *_ in await server.ask("CLUSTER", "SLOTS"):
                if first <= slot <= last and port == server.address.port:
                    return server
        raise LookupError(f"nobody has slot {slot}")

    async def replica_of(self, master: Server) -> Server:
        for server in self.servers:
            role = await server.ask("ROLE")
            if role[0] == b"slave" and int(role[2]) == master.address.port:
                return server
        raise LookupError(f"{master} has no replica")

    async def begin_to_move(self, key: bytes, *, to: Server) -> None:
        """Marks the key's slot as migrating; from here on its keys move one by one."""
        source, slot = await self.owner(key), key_slot(key)
        await to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", await source.id())
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", await to.id())

    async def end_to_move(self, key: bytes, *, to: Server) -> None:
        """Assigns the slot to the target on all servers."""
        target = await to.id()
        for server in (to, *(each for each in await self.masters() if each is not to)):
            await server.ask("CLUSTER", "SETSLOT", key_slot(key), "NODE", target)


async def move_key(key: bytes, source: Server, *, to: Server) -> None:
    await source.ask("MIGRATE", *to.address, key, 0, 5000, "REPLACE", "AUTH", PASSWORD)


async def until_master(server: Server) -> None:
    await _until(server.is_master)


@asynccontextmanager
async def running(folder: Path, *, masters: int = 3, replicas: int = 0) -> AsyncIterator[ClusterServers]:
    """A formed cluster until the end of the block; `replicas` in all."""
    servers = [Server(folder / str(port), port) for port in _free_ports(masters + replicas)]
    cluster = ClusterServers(servers, masters=masters)
    try:
        for server in servers:
            server.start()
        await cluster.form()
        yield cluster
    finally:
        for server in servers:
            await server.end()


def _free_ports(count: int) -> list[int]:
    """Ports whose bus ports are free too. Below the ephemeral ones, so that no client's socket comes in between.

    The processes of one run look far from each other: their ids are close, and what one has found it has not bound yet.
    """
    found: list[int] = []
    port = 12_000 + os.getpid() * 101 % 5_000
    while len(found) < count:
        port += 1
        if not _is_taken(port) and not _is_taken(port + BUS_OFFSET):
            found.append(port)
    return found


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _all_ready(servers: Sequence[Server]) -> Any:
    async def ready() -> bool:
        return all([await server.is_ready() for server in servers])

    return ready


async def _do(server: Server, *words: str | int) -> None:
    """Runs a command that the client may send twice, and that fails the second time."""
    try:
        await server.ask(*words)
    except ResponseError as error:
        if "already" not in str(error):
            raise


async def _until(is_so: Any, *, within_seconds: float = START_SECONDS) -> None:
    async with asyncio.timeout(within_seconds):
        while not await is_so():  # noqa: ASYNC110 - processes of their own
            await asyncio.sleep(_ASK_SECONDS)


def _fields(answer: bytes | str) -> dict[str, str]:
    text = answer.decode() if isinstance(answer, bytes) else answer
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
