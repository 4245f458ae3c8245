"""The parts of an installation, each a process that can be killed, frozen and started again by its name."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from gateway.embedded.endpoints import Endpoint
from gateway.embedded.postgres import Postgres
from gateway.embedded.valkey import Valkey

START_SECONDS = 60.0  # only a failure waits so long
POLL_SECONDS = 0.02


class Part(Protocol):
    """A process of the installation, by name."""

    @property
    def name(self) -> str: ...

    def kill(self) -> None:
        """Kills it like `kill -9`. It restarts by itself, or is started again at once."""

    async def restored(self) -> None:
        """Returns when it runs again."""


class Role:
    """A process of the gateway: a proxy, or a worker. Its listening socket outlives it."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.url: str | None = None
        self.pid = 0
        self._born = asyncio.Event()

    def __repr__(self) -> str:
        return f"<{self.name} {self.pid}>"

    def born(self, pid: int, url: str | None) -> None:
        self.pid, self.url = pid, url
        self._born.set()

    def kill(self) -> None:
        if self._born.is_set():
            self._born.clear()
            with suppress(ProcessLookupError):  # it could not start, and another one is tried
                os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def restored(self) -> None:
        await asyncio.wait_for(self._born.wait(), START_SECONDS)


class ProcessForks:
    """Starts processes of the gateway, and others where they are killed (`process_forks.py`)."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self._folder = folder
        self._process = process
        self._roles: dict[str, Role] = {}

    async def start(self, name: str, role: str, places: Mapping[str, str]) -> Role:
        """`role` with the configuration `folder/gateway.yaml` and this environment."""
        part = self._roles[name] = Role(name, self._folder / f"{name}.log")
        wanted = {
            "name": name,
            "listens": role != "worker",
            "log": str(part.log),
            "config": str(self._folder / "gateway.yaml"),
            "places": dict(places),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        await part.restored()
        return part

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            self._roles[said["name"]].born(said["pid"], said["url"])


@asynccontextmanager
async def forking(folder: Path) -> AsyncIterator[ProcessForks]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.guarantees.faults.process_forks", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    found = ProcessForks(folder, process)
    hearing = asyncio.create_task(found._hear())
    try:
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), START_SECONDS)
        await hearing


class Store:
    """Valkey or PostgreSQL. Killed, it is started again at its address, with what it had written."""

    def __init__(self, name: str, server: Valkey | Postgres, endpoint: Endpoint, pid_file: Path) -> None:
        self.name = name
        self.endpoint = endpoint
        self._server = server
        self._pid_file = pid_file  # the embedded stores write one, as their lock or of their own
        self._starting: asyncio.Task[None] | None = None
        self._is_killed = False

    @property
    def pid(self) -> int:
        return int(self._pid_file.read_text().split()[0])

    async def start(self) -> None:
        """Starts it again once the killed process has ended and its lock is free."""
        while self._is_killed and not self._server.has_died():  # noqa: ASYNC110 - of a process
            await asyncio.sleep(POLL_SECONDS)
        self._is_killed = False
        await self._server.stop_leftover()
        await self._server.start(self.endpoint)

    async def stop(self) -> None:
        await self.restored()
        self.thaw()
        await self._server.stop()

    def kill(self) -> None:
        if self._starting is None or self._starting.done():
            self.kill_for_good()
            self._starting = asyncio.get_running_loop().create_task(self.start())

    def kill_for_good(self) -> None:
        """The server and the processes of its connections; it stays away until `start`."""
        self._is_killed = True
        for pid in (self.pid, *children(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        for pid in (self.pid, *children(self.pid)):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (self.pid, *children(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def restored(self) -> None:
        if self._starting is not None:
            await self._starting


def children(pid: int) -> list[int]:
    """The living child processes of `pid`."""
    return [child for child, parent in _parents() if parent == pid]


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            if state != "Z":
                yield int(path.parent.name), int(parent)
