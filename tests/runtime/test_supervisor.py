"""A supervisor ends a process that does not become ready in time, so that another one takes its place."""

from __future__ import annotations

import asyncio
import os
import signal

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
