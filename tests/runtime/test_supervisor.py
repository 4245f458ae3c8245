"""A supervisor ends a process that does not become ready in time, so that another one takes its place."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
from pathlib import Path

import pytest

from gateway.runtime import supervisor
from gateway.runtime.supervisor import ChildFailed, ChildSpec


async def test_process_that_is_not_ready_in_time_is_ended_and_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT_SECONDS", 0.0)
    child = supervisor._Child(ChildSpec("proxy-0", ("child", "proxy")), os.environ)
    for _ in range(2):
        with pytest.raises(ChildFailed, match="proxy-0 was not ready within 0 s"):
            await child.start()
        assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
    await child.stop(0)


async def test_process_starts_deaf_to_a_terminal_and_to_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: list[set[int]] = []

    async def become_ready(child: supervisor._Child, _line: asyncio.StreamReader) -> None:
        blocked.append(_blocked_signals(child.pid))

    monkeypatch.setattr(supervisor._Child, "_become_ready", become_ready)
    child = supervisor._Child(ChildSpec("proxy-0", ("child", "proxy")), os.environ)
    await child.start()
    await child.stop(60)
    assert blocked == [{signal.SIGINT, signal.SIGHUP}]
    assert not blocked[0] & _blocked_signals(os.getpid())


def _blocked_signals(pid: int) -> set[int]:
    (mask,) = re.findall(r"^SigBlk:\s(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {number for number in range(1, signal.NSIG) if int(mask, 16) >> (number - 1) & 1}


class Dead:
    """A process that has crashed, and whose stop lasts until its supervisor watches it no longer."""

    name, stage, pid = "proxy-0", "listeners", 0
    starts = 0
    watching: asyncio.Task[None]

    def __init__(self) -> None:
        self.has_ended = asyncio.Event()

    async def wait(self) -> int:
        self.has_ended.set()
        return 1

    async def start(self) -> None:
        self.starts += 1

    async def stop(self, _patience_seconds: float) -> None:
        await asyncio.wait_for(self.watching, 5)


async def test_supervisor_that_stops_starts_no_process_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", 0.05)
    running, child = supervisor.Supervisor({}, metrics_dir=str(tmp_path), drain_timeout_seconds=0.0), Dead()
    running._children.append(child)  # type: ignore[arg-type] # as far as it is used
    child.watching = asyncio.create_task(running.watch())
    await child.has_ended.wait()
    await running.stop()
    assert child.starts == 0


async def test_supervisor_tries_again_where_no_process_can_be_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", 0.0)
    running, child = supervisor.Supervisor({}, metrics_dir=str(tmp_path), drain_timeout_seconds=0.0), Dead()
    started = asyncio.Event()

    async def start() -> None:
        child.starts += 1
        if child.starts == 1:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.set()

    monkeypatch.setattr(child, "start", start)
    running._children.append(child)  # type: ignore[arg-type] # as above
    watching = asyncio.create_task(running.watch())
    await asyncio.wait_for(started.wait(), 5)
    assert child.starts > 1
    watching.cancel()


async def test_process_that_starts_is_not_ended_by_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    child = supervisor._Child(ChildSpec("proxy-0", ()), {})
    sent: list[signal.Signals] = []
    monkeypatch.setattr(child, "signal", sent.append)
    child.reload()
    assert (sent, child._reloads_once_ready) == ([], True)
    child._hearing = asyncio.create_task(asyncio.sleep(0))
    child.reload()
    assert (sent, child._reloads_once_ready) == ([signal.SIGHUP], False)
