"""The guarantees of the steady clock, on which other tests rely."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.support.steady_clock import steady_clock

STALL_SECONDS = 0.15


async def test_steady_clock_lets_no_timer_expire_by_a_stall() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)

    async def echo() -> None:
        for _ in range(2):
            await loop.sock_sendall(far, await loop.sock_recv(far, 1))
            time.sleep(STALL_SECONDS)  # noqa: ASYNC251 - the machine stands still

    with near, far, steady_clock():
        echoing = asyncio.create_task(echo())
        async with asyncio.timeout(STALL_SECONDS / 2):
            for _ in range(2):
                await loop.sock_sendall(near, b"x")
                time.sleep(STALL_SECONDS)  # noqa: ASYNC251
                assert await loop.sock_recv(near, 1) == b"x"
        await echoing


async def test_steady_clock_expires_timers_that_wait() -> None:
    with steady_clock():
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(STALL_SECONDS):
                await asyncio.Event().wait()
        assert time.monotonic() - began >= STALL_SECONDS


async def test_steady_clock_never_leaps_nor_goes_back() -> None:
    loop = asyncio.get_running_loop()
    seen = [loop.time()]
    for _ in range(2):
        with steady_clock():
            for pause_seconds in (0, 0.001, 0):
                time.sleep(0.02)  # noqa: ASYNC251 - the machine stands still
                seen.append(loop.time())
                await asyncio.sleep(pause_seconds)
                seen.append(loop.time())
        seen.append(loop.time())
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] < 0.12, "half of what the machine stood still"
