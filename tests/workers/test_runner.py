"""Workers run while there is work, survive failures, and finish their run on stop."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from gateway.workers import runner as module
from gateway.workers.runner import MAX_BACKOFF_SECONDS, Runner, _backoff_seconds
from tests.support.polling import eventually
from tests.support.steady_clock import steady_clock


class Digger:
    """Does one unit of `work` per run; is `busy` while it waits for permission to go on."""

    idle_seconds = 3600.0

    def __init__(self, work: int = 0) -> None:
        self.work = work
        self.runs = 0
        self.busy = False
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def run_once(self) -> int:
        self.runs += 1
        self.busy = True
        await self.may_go_on.wait()
        self.busy = False
        took = min(self.work, 1)
        self.work -= took
        return took


class Stumbler:
    """Fails a number of times, then works."""

    idle_seconds = 0.0

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.successes = 0

    async def run_once(self) -> int:
        if self.failures:
            self.failures -= 1
            raise ValueError("stumbled")
        self.successes += 1
        return 0


async def test_busy_worker_runs_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digger, "idle_seconds", 3600.0)
    digger = Digger(work=50)
    async with Runner(digger):
        await eventually(lambda: digger.work == 0)
        assert digger.runs >= 50


async def test_idle_worker_pauses() -> None:
    digger = Digger()
    async with Runner(digger):
        await eventually(lambda: digger.runs)
        await asyncio.sleep(0.05)
        assert digger.runs == 1


async def test_stop_finishes_the_run_and_runs_once_more() -> None:
    digger = Digger(work=2)
    digger.may_go_on.clear()
    runner = Runner(digger)
    serving = asyncio.create_task(runner.serve())
    await eventually(lambda: digger.busy)
    runner.stop()
    await asyncio.sleep(0.02)
    assert not serving.done()
    assert repr(runner) == "<Runner stopping: Digger>"
    digger.may_go_on.set()
    await serving
    assert (digger.runs, digger.work) == (2, 0)


async def test_failing_worker_neither_ends_nor_delays_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.001)
    stumbler, digger = Stumbler(failures=3), Digger(work=5)
    with structlog.testing.capture_logs() as lines:
        async with Runner(stumbler, digger):
            await eventually(lambda: stumbler.successes)
    assert digger.work == 0
    assert [(line["worker"], line["failures"]) for line in lines] == [("Stumbler", n) for n in (1, 2, 3)]
    assert all(isinstance(line["exc_info"], ValueError) for line in lines)


async def test_failure_is_not_retried_at_once() -> None:
    stumbler = Stumbler(failures=1000)
    with structlog.testing.capture_logs() as lines, steady_clock():
        async with Runner(stumbler):
            await eventually(lambda: lines)
            await asyncio.sleep(0.05)
            assert len(lines) == 1


def test_backoff_doubles_up_to_a_limit() -> None:
    assert [_backoff_seconds(n) for n in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, 2.0]
    assert _backoff_seconds(1000) == MAX_BACKOFF_SECONDS
