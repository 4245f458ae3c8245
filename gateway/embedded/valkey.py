"""Valkey under the data directory: every write in an append-only file, nothing evicted."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

from gateway.embedded.append_only import AppendOnlyFile
from gateway.embedded.binaries import find_valkey
from gateway.embedded.child import Child, Program, give_to_servers, stop_leftover
from gateway.embedded.endpoints import Endpoint

_READY_SECONDS = 120.0  # it answers only when the append-only file is read back
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 2.0


class Valkey:
    """The server of one data directory. `durable` False leaves flushing to the kernel, for tests."""

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        self._program = Program(
            name="Valkey",
            folder=data_dir / "valkey",
            lock=data_dir / "valkey.lock",
            log=data_dir / "valkey.log",
            stop_signal=signal.SIGTERM,
            abort_signal=signal.SIGKILL,
        )
        self._file = AppendOnlyFile(self._program.folder, durable=durable)
        self._child: Child | None = None

    async def take_over(self) -> None:
        """End a server that an earlier owner left behind."""
        await stop_leftover(self._program, _STOP_SECONDS)

    async def start(self, endpoint: Endpoint) -> None:
        """Run the server, and return once it has read its file back and answers."""
        if not self._program.folder.exists():
            self._program.folder.mkdir(mode=0o700)
            give_to_servers(self._program.folder)
        # By standard input, since other users can read a process's arguments and the password is among these.
        configuration = _configuration(endpoint)
        self._child = Child(self._program, [str(find_valkey()), "-"], stdin=configuration.encode())
        await self._child.wait_ready(lambda: is_ready(endpoint), _READY_SECONDS)

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(_STOP_SECONDS)
        self._file.close()

    def flush(self) -> None:
        """Takes to the disk what the server has written; blocks, so call it in a thread. Raises OSError."""
        self._file.flush()

    def has_died(self) -> bool:
        return self._child is not None and not self._child.is_running()


async def is_ready(endpoint: Endpoint) -> bool:
    """Whether the server takes the password and answers PING; it does not while it reads its file back."""
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
            # Written before every answer, flushed by `flush`: `everysec` answers before it has written while a flush is
            # under way, so even a kill would lose answers, and `always` lets every call wait for a busy disk.
            "appendfsync no",
            "aof-load-truncated yes",  # a crash may tear the last entry
            'save ""',
            "maxmemory-policy noeviction",  # an evicted balance would be a wrong one
            "daemonize no",
            "",
        )
    )
