"""Valkey in the data directory: every write goes to an append-only file, and no key is evicted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.embedded.append_only import AppendOnlyFile
from gateway.embedded.binaries import find_valkey
from gateway.embedded.endpoints import Endpoint
from gateway.embedded.server_process import ServerProcess, ServerProgram, chown_to_server_user, stop_leftover

_READY_SECONDS = 120.0  # it answers after it has read the append-only file
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 2.0


class Valkey:
    """The server of one data directory. `durable` False leaves flushing to the kernel, for tests.

    It answers on `cores`, if there are any, and rewrites its file on the others.
    """

    def __init__(self, data_dir: Path, *, durable: bool, cores: Sequence[int] = ()) -> None:
        self._program = ServerProgram(
            name="Valkey",
            folder=data_dir / "valkey",
            lock=data_dir / "valkey.lock",
            log=data_dir / "valkey.log",
            stop_signal=signal.SIGTERM,
            abort_signal=signal.SIGKILL,
        )
        self._cores = cores
        self._file = AppendOnlyFile(self._program.folder, durable=durable)
        self._server: ServerProcess | None = None

    async def stop_leftover(self) -> None:
        """Stops a server that an earlier owner has left running."""
        await stop_leftover(self._program, _STOP_SECONDS)

    async def start(self, endpoint: Endpoint) -> None:
        """Runs the server; returns when it has read its file and answers."""
        if not self._program.folder.exists():
            self._program.folder.mkdir(mode=0o700)
            chown_to_server_user(self._program.folder)
        # By standard input: other users can read a process's arguments, and the configuration holds the password.
        configuration = _configuration(endpoint) + _cpu_lists(self._cores)
        self._server = ServerProcess(self._program, [str(find_valkey()), "-"], stdin=configuration.encode())
        await self._server.wait_ready(lambda: is_ready(endpoint), _READY_SECONDS)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(_STOP_SECONDS)
        self._file.close()

    def flush(self) -> None:
        """Flushes what the server has written to disk; blocks, so call it in a thread. Raises OSError."""
        self._file.flush()

    def has_died(self) -> bool:
        return self._server is not None and not self._server.is_running()


async def is_ready(endpoint: Endpoint) -> bool:
    """Whether the server accepts the password and answers PING; it does not while it reads its file."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
            try:
                writer.write(f"AUTH {endpoint.password}\r\nPING\r\n".encode())
                return [await reader.readline(), await reader.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


def _configuration(endpoint: Endpoint) -> str:
    return "\n".join(
        (
            "bind 127.0.0.1",
            f"port {endpoint.port}",
            f"requirepass {endpoint.password}",
            "appendonly yes",
            # Written before each reply, flushed by `flush`. During a flush `everysec` replies before it has written,
            # so that a kill loses acknowledged writes; `always` makes every call wait for a busy disk.
            "appendfsync no",
            # Every rewrite waits for the disk twice, which once in 1,000 times takes longer than calls wait for Redis.
            # A file of 256 MB holds some 180,000 calls, and is read in 1.3 s.
            "auto-aof-rewrite-min-size 256mb",
            "aof-load-truncated yes",  # a crash may tear the last entry
            'save ""',
            "maxmemory-policy noeviction",  # without a balance the gateway would count wrongly
            "daemonize no",
            "",
        )
    )


def _cpu_lists(cores: Collection[int]) -> str:
    if not cores:
        return ""
    others = os.sched_getaffinity(0).difference(cores)
    return f"server-cpulist {_listed(cores)}\naof-rewrite-cpulist {_listed(others)}\n"


def _listed(cores: Collection[int]) -> str:
    return ",".join(map(str, sorted(cores)))
