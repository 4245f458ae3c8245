"""Runs one pass of the usage writer and stops at a named function, before its call or after its return.

`python -m tests.guarantees.processes.stopping_usage_writer DATABASE_URL REDIS_URL PARTITIONS POINT SIDE`
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from gateway.ledger.db.session import Database
from gateway.ledger.usage import journal_offsets
from gateway.meter.client.client import RedisClient
from gateway.meter.journal import Journal
from gateway.workers.usage import entry_writing
from gateway.workers.usage.usage_writer import UsageWriter

POINTS: dict[str, tuple[Any, str]] = {
    "claim": (journal_offsets, "claim"),
    "ingest": (entry_writing, "ingest"),
    "advance": (journal_offsets, "advance"),
    "trim": (Journal, "trim"),
}


async def main() -> None:
    database_url, redis_url, partitions, point, side = sys.argv[1:]
    _stop_at(*POINTS[point], side=side)
    database, redis_client = Database(database_url), RedisClient(redis_url, timeout_seconds=5)
    await redis_client.open()
    await UsageWriter(database, Journal(redis_client, int(partitions))).run_once()


def _stop_at(holder: Any, name: str, *, side: str) -> None:
    original = getattr(holder, name)

    async def stop(*arguments: Any, **named: Any) -> None:
        if side == "after":
            await original(*arguments, **named)
        print("stopped", flush=True)  # noqa: T201 - the test waits for it
        await asyncio.Event().wait()

    setattr(holder, name, stop)


asyncio.run(main())
