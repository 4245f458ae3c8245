"""Waiting for what will come about by itself: asked again and again, with a deadline that only a failure meets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ASK_SECONDS = 0.005


async def eventually(is_so: Callable[[], object], within_seconds: float = 10.0) -> None:
    """Returns as soon as `is_so()` is truthy."""
    async with asyncio.timeout(within_seconds):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event to offer
            await asyncio.sleep(ASK_SECONDS)
