"""Processes of the gateway that are replaced one after the other, and clients that call meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.sampling import scaled

CALLS_PER_SECOND = scaled(suite=200, full=500)
CLIENTS = scaled(suite=40, full=200)  # a quarter each: GET or POST, over connections that nginx keeps or opens
PATIENCE_SECONDS = 120.0  # only a failure waits so long
LOWEST_PORT = 20_000 + os.getpid() % 10_000  # below net.ipv4.ip_local_port_range
ROOT = Path(__file__).parents[3]
DOCUMENT = """
redis: {{timeout: 5s, partitions: 4}}
upstreams: {{main: {{targets: ["{upstream}"], max_share_per_account: 1}}}}
routes: [{{name: call, match: {{path: /v1/**}}, upstream: main, price: {{credits: 1}}}}]
plans: [{{id: open, name: Open, price: 0}}]
"""


@dataclass
class Load:
    """Clients that call at a steady rate, whatever becomes of their calls."""

    key: str
    kept: int
    new: int
    clients: int = CLIENTS
    calls_per_second: int = CALLS_PER_SECOND
    answers: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    async def run(self, number: int) -> None:
        loop, interval = asyncio.get_running_loop(), self.clients / self.calls_per_second
        port = self.kept if number % 2 else self.new
        body = b"x" * 100 if number % 4 < 2 else None
        due = loop.time() + interval * number / self.clients
        while not self.is_over:
            await asyncio.sleep(due - loop.time())
            due += interval
            self.answers[await self._call(port, body)] += 1

    async def _call(self, port: int, body: bytes | None) -> str:
        method, length = ("GET", "") if body is None else ("POST", f"content-length: {len(body)}\r\n")
        head = f"{method} /v1/x HTTP/1.1\r\nhost: x\r\nx-api-key: {self.key}\r\nconnection: close\r\n{length}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + (body or b""))
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
        writer.close()
        return f"{method} {answer[9:12].decode()}"


@asynccontextmanager
async def called(load: Load) -> AsyncIterator[None]:
    """The clients call for the time of the block, and finish their calls at its end."""
    clients = [asyncio.create_task(load.run(number)) for number in range(load.clients)]
    try:
        yield
    finally:
        load.is_over = True
        await asyncio.gather(*clients)


@dataclass
class Process:
    """A role of the gateway under one address, whichever process serves there, of the version that `code` has."""

    role: str
    folder: Path
    places: Mapping[str, str]
    code: Path = ROOT
    process: asyncio.subprocess.Process | None = None
    log: Path | None = None
    tries: int = 1

    async def start(self) -> None:
        """Returns when it is ready. One that stops instead is started again, as systemd does, `tries` times at most."""
        path = self.log or self.folder / f"{self.role}.log"
        for _ in range(self.tries):
            if await self._becomes_ready(path):
                return
        raise AssertionError(path.read_text()[-2000:])

    async def _becomes_ready(self, path: Path) -> bool:
        command = [sys.executable, "-m", "gateway", self.role, "--config", str(self.folder / "gateway.yaml"), "--json"]
        with path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=self.code, env=self._environ(), stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        return bool(await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_SECONDS))

    def _environ(self) -> dict[str, str]:
        has_health = (self.code / "gateway" / "runtime" / "health").exists()
        own = {"GATEWAY_SERVER__HEALTH": "127.0.0.1:0"} if has_health else {}
        return {**os.environ, **own, **self.places}

    async def stop(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.terminate()
        assert await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS) == 0

    async def replace(self, code: Path = ROOT) -> None:
        await self.stop()
        self.code = code
        await self.start()


@asynccontextmanager
async def serving(processes: Sequence[Process]) -> AsyncIterator[None]:
    """They run for the time of the block. Two start at once, for a machine of two cores."""
    try:
        for at in range(0, len(processes), 2):
            await asyncio.gather(*(each.start() for each in processes[at : at + 2]))
        yield
    finally:
        await asyncio.gather(*(each.stop() for each in processes if each.process is not None))


async def run(*words: str, folder: Path, places: Mapping[str, str], code: Path = ROOT) -> dict[str, str]:
    """What a command of that version prints with --json, or nothing."""
    command = [sys.executable, "-m", "gateway", *words, "--config", str(folder / "gateway.yaml")]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=code, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode() + said.decode()
    answer: dict[str, str] = json.loads(said.splitlines()[-1]) if "--json" in words else {}
    return answer


def free_ports(count: int) -> list[int]:
    """Ports that the kernel gives to no connection while a proxy is away."""
    found: list[int] = []
    for port in range(LOWEST_PORT, LOWEST_PORT + 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            break
    return found
