"""Runs workers in loops: again at once while there is work, after a pause when there is none or a run fails.

Stopping lets every run under way finish and then runs each worker a last time, so that it writes what it has counted.
Only a crash interrupts a worker.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

import structlog

IDLE_SECONDS = 0.5
FIRST_BACKOFF_SECONDS = 0.25
# Short enough for the next heartbeat to come before the hold sweeper takes the process for dead.
MAX_BACKOFF_SECONDS = 4.0

log = structlog.get_logger(__name__)


class Worker(Protocol):
    """`run_once` gives how much it did; 0 makes the loop pause for the worker's `idle_seconds`, else IDLE_SECONDS."""

    async def run_once(self) -> int: ...


class Runner:
    """Runs each worker in a loop of its own, while in its `async with` block or until `stop`."""

    def __init__(self, *workers: Worker) -> None:
        self._workers = workers
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        names = ", ".join(_name(worker) for worker in self._workers)
        return f"<Runner {'stopping' if self._stopping.is_set() else 'running'}: {names}>"

    async def __aenter__(self) -> Runner:
        self._serving = asyncio.get_running_loop().create_task(self.serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._serving is not None:
            await self._serving

    async def serve(self) -> None:
        """Returns once `stop` was called and every worker has had its last run."""
        async with asyncio.TaskGroup() as loops:
            for worker in self._workers:
                loops.create_task(self._loop(worker), name=_name(worker))

    def stop(self) -> None:
        """No worker starts more than its last run from here on. Safe in a signal handler."""
        self._stopping.set()

    async def _loop(self, worker: Worker) -> None:
        failures = 0
        while not self._stopping.is_set():
            done = await _run(worker, failures)
            failures = failures + 1 if done is None else 0
            await self._pause(_backoff_seconds(failures) if done is None else 0 if done else _idle_seconds(worker))
        await _run(worker, failures)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


async def _run(worker: Worker, failures: int) -> int | None:
    """Gives how much was done, or None for a failure, which it logs."""
    try:
        return await worker.run_once()
    except Exception as error:
        log.warning("worker_failed", worker=_name(worker), failures=failures + 1, exc_info=error)
        return None


def _idle_seconds(worker: Worker) -> float:
    seconds: float = getattr(worker, "idle_seconds", IDLE_SECONDS)
    return seconds


def _backoff_seconds(failures: int) -> float:
    doubled: float = FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 16)
    return min(doubled, MAX_BACKOFF_SECONDS)


def _name(worker: Worker) -> str:
    return type(worker).__name__
