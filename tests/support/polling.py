"""Polling for a condition that has no event to wait on. The deadline is met only by a failure."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

POLL_SECONDS = 0.005


async def eventually(condition: Callable[[], object], timeout_seconds: float = 10.0) -> None:
    """Returns as soon as `condition()` is truthy; raises TimeoutError if it never is."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():  # noqa: ASYNC110 - the condition offers no event
            await asyncio.sleep(POLL_SECONDS)


async def listening(port: int, timeout_seconds: float = 10.0) -> None:
    """Returns once this port of the loopback takes connections; raises TimeoutError if it never does."""
    await eventually(lambda: _takes_connections(port), timeout_seconds)


def _takes_connections(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
