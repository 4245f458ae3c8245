"""A Valkey with faults: frozen, slow, emptied, killed, restored from an older copy of its file."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from enum import Enum
from pathlib import Path

from redis.asyncio import Redis

from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from tests.guarantees.faults.proxy import FaultProxy


class Fault(Enum):
    FROZEN = "frozen"
    SLOW = "slow"
    FLUSHED = "flushed"
    RESTARTED = "restarted"
    OLDER = "restored from an older copy"


class FaultyValkey:
    """The server, and the proxy by which gateways reach it."""

    def __init__(self, folder: Path, *, password: str | None = None) -> None:
        self._folder = folder
        endpoint = choose(None).valkey
        self.endpoint = endpoint if password is None else replace(endpoint, password=password)
        self._copy = folder / "copy"
        self._pid = 0
        self._valkey = Valkey(folder, durable=False)
        self.proxy = FaultProxy("127.0.0.1", self.endpoint.port)
        self.admin = Redis(port=self.endpoint.port, password=self.endpoint.password)

    async def __aenter__(self) -> FaultyValkey:
        await self._start()
        await self.proxy.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.admin.aclose()
        await self.proxy.__aexit__(None, None, None)
        await self._valkey.stop()

    @property
    def url(self) -> str:
        return f"redis://:{self.endpoint.password}@127.0.0.1:{self.endpoint.port}/0"

    async def suffer(self, fault: Fault, seconds: float) -> None:
        """Returns once the server has recovered."""
        match fault:
            case Fault.FROZEN:
                self._signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                self._signal(signal.SIGCONT)
            case Fault.SLOW:
                self.proxy.replies.delay_seconds = lambda: 0.5
                await asyncio.sleep(seconds)
                self.proxy.replies.delay_seconds = lambda: 0.0
            case Fault.FLUSHED:
                await self.admin.flushall()
            case Fault.RESTARTED:
                await self._kill()
                await asyncio.sleep(seconds)
                await self._start()
            case Fault.OLDER:
                await self.back_up()
                await asyncio.sleep(seconds)
                await self.restore()

    async def back_up(self) -> None:
        """Copies its file, in place of any copy before."""
        await asyncio.to_thread(shutil.rmtree, self._copy, ignore_errors=True)
        await asyncio.to_thread(_copy, self._folder / "valkey", self._copy)

    @property
    def has_copy(self) -> bool:
        return self._copy.exists()

    async def restore(self) -> None:
        """Kills the server, and starts it from the copy."""
        await self._kill()
        await asyncio.to_thread(shutil.rmtree, self._folder / "valkey")
        await asyncio.to_thread(_copy, self._copy, self._folder / "valkey")
        await self._start()

    async def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        await self._valkey.stop()

    async def _start(self) -> None:
        self._valkey = Valkey(self._folder, durable=False)
        await self._valkey.start(self.endpoint)
        self._pid = int((await self.admin.info("server"))["process_id"])

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)


def _copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)  # keeps the owner, as shutil does not
