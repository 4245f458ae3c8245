"""Many calls of a process that has to hand in what it knows, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any

# What is handed in at once: little, so that a slow Redis too answers all of it within its timeout.
HAND_IN_BATCH = 25


async def in_batches(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Raises what the first to fail raises; those after its batch are not begun."""
    waiting = iter(calls)
    try:
        while batch := list(islice(waiting, HAND_IN_BATCH)):
            await asyncio.gather(*batch)
    finally:
        for call in waiting:
            call.close()
