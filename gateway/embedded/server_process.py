"""A server process: starts through the launcher, stops by its own signal, and never outlives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import monotonic_seconds
from gateway.embedded import launch
from gateway.embedded.errors import StoreFailedError
from gateway.embedded.locks import is_held, lock_holder

_POLL_SECONDS = 0.01
_GRACE_SECONDS = 0.5
_LOG_BYTES = 10 << 20
_UNPRIVILEGED_ID = 65534  # nobody, by the Linux Standard Base


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """How to run one server.

    `folder` is its working directory; `stop_signal` asks for an orderly end, `abort_signal` for an immediate one.
    """

    name: str
    folder: Path
    lock: Path
    log: Path
    stop_signal: signal.Signals
    abort_signal: signal.Signals


class ServerProcess:
    """A running server. The thread that creates it must outlive it: Linux ties the death signal to that thread."""

    def __init__(self, program: ServerProgram, command: Sequence[str], *, stdin: bytes = b"") -> None:
        self._program = program
        self._log_start = _start_of_log(program.log)
        self._process = _spawn(program, command)
        if self._process.stdin is not None:
            self._process.stdin.write(stdin)
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    async def wait_ready(self, probe: Callable[[], Awaitable[bool]], timeout_seconds: float) -> None:
        """Returns when `probe` is true. Raises StoreFailedError when the server ends first or time runs out."""
        deadline = monotonic_seconds() + timeout_seconds
        while not await probe():
            if not self.is_running():
                raise StoreFailedError(f"{self._program.name} did not start: {self._log_excerpt()}")
            if monotonic_seconds() > deadline:
                raise StoreFailedError(
                    f"{self._program.name} was not ready in {timeout_seconds:g} s: {self._log_excerpt()}"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def wait_done(self, timeout_seconds: float) -> None:
        """Waits for a command that ends by itself. Raises StoreFailedError when it fails."""
        if not await _until(lambda: not self.is_running(), timeout_seconds) or self._process.returncode != 0:
            raise StoreFailedError(f"{self._program.name} failed: {self._log_excerpt()}")

    async def stop(self, timeout_seconds: float) -> None:
        """Asks for an orderly end, then for an immediate one, then kills."""
        for number in (self._program.stop_signal, self._program.abort_signal, signal.SIGKILL):
            if self.is_running():
                _signal(self.pid, number)
            if await _until(lambda: not self.is_running(), timeout_seconds):
                return

    def _log_excerpt(self) -> str:
        """The last line with an error word that this start has logged, else the last line."""
        with self._program.log.open(errors="replace") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log if line.strip()]
        errors = [line for line in lines if "FATAL" in line or "error" in line.lower()]
        return f"{(errors or lines or ['no output'])[-1]} (see {self._program.log})"


async def stop_leftover(program: ServerProgram, timeout_seconds: float) -> None:
    """Stops a server that has outlived the gateway that started it.

    Raises StoreFailedError if it does not stop.
    """
    # A server that got the death signal is about to end by itself.
    if await _until(lambda: not is_held(program.lock), _GRACE_SECONDS):
        return
    for number in (program.stop_signal, program.abort_signal, signal.SIGKILL):
        pid = lock_holder(program.lock)
        if pid is not None:
            _signal(pid, number)
        if await _until(lambda: not is_held(program.lock), timeout_seconds):
            return
    raise StoreFailedError(f"{program.name} of an earlier start still runs as process {lock_holder(program.lock)}")


def chown_to_server_user(path: Path) -> None:
    """As root, makes the servers' user own `path`, since PostgreSQL checks the owner of its directory."""
    if os.geteuid() == 0:
        os.chown(path, *_identity(path.parent))


def _let_pass(folder: Path, gid: int) -> None:
    """As root, lets the servers' group pass through `folder` of root, so that they need no capability for it."""
    status = folder.stat()
    if os.geteuid() == 0 and status.st_uid == 0 and status.st_gid in (0, gid) and not status.st_mode & stat.S_IXOTH:
        os.chown(folder, -1, gid)
        folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXGRP)


def _spawn(program: ServerProgram, command: Sequence[str]) -> subprocess.Popen[bytes]:
    uid, gid = _identity(program.folder)
    _let_pass(program.folder.parent, gid)
    numbers = (os.getpid(), int(program.stop_signal), uid, gid)
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(program.lock), *map(str, numbers)]
    with open(program.log, "ab", opener=_private) as log:
        return subprocess.Popen(  # noqa: S603 - the binaries that binaries.py found
            [*launcher, *command],
            cwd=program.folder,
            # PGDATA, PGPORT and their like must not reach the servers.
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            # Ctrl-C in the terminal must stop the gateway alone, which settles calls before it stops its stores.
            start_new_session=True,
        )


def _identity(folder: Path) -> tuple[int, int]:
    """The user and group of servers in `folder`: those of this process; for root the folder's owner, or nobody."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    status = folder.stat()
    return status.st_uid or _UNPRIVILEGED_ID, status.st_gid or _UNPRIVILEGED_ID


def _start_of_log(log: Path) -> int:
    """Where the lines of this start begin. Renames a long log, over the one before, so that logs stay bounded."""
    length = log.stat().st_size if log.exists() else 0
    if length < _LOG_BYTES:
        return length
    log.replace(log.with_suffix(".log.1"))
    return 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)  # a stopped process must continue to get it
    except ProcessLookupError:
        return  # it has ended; its own children hold the lock for a moment longer


async def _until(is_done: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = monotonic_seconds() + timeout_seconds
    while not is_done():
        if monotonic_seconds() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
