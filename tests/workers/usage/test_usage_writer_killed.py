"""A writer that is killed, process and all, loses and repeats nothing: its transaction dies with its connection."""

from __future__ import annotations

import asyncio
import signal
import sys
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.workers.usage.usage_writer import UsageWriter
from tests.workers.conftest import PARTITIONS, House

# Runs one pass and stops for good at a point: the name of a function whose call, or return, never comes.
WRITER = """
import asyncio, importlib, sys

from gateway.ledger.db.session import Database
from gateway.meter.journal import Journal
from gateway.meter.client.client import Link
from gateway.workers.usage.usage_writer import UsageWriter

database_url, redis_url, partitions, room, name, side = sys.argv[1:]
holder = importlib.import_module(room)
holder = Journal if room.endswith("journal") else holder
whole = getattr(holder, name)

async def stop(*arguments, **named):
    if side == "after":
        await whole(*arguments, **named)
    print("stopped", flush=True)
    await asyncio.Event().wait()

setattr(holder, name, stop)

async def main():
    database, link = Database(database_url), Link(redis_url, timeout_seconds=5)
    await link.open()
    await UsageWriter(database, Journal(link, int(partitions))).run_once()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("room", "name", "side"),
    [
        ("gateway.ledger.usage.journal_offsets", "claim", "after"),
        ("gateway.workers.usage.usage_writer", "ingest", "after"),
        ("gateway.ledger.usage.journal_offsets", "advance", "after"),
        ("gateway.meter.journal", "trim", "before"),
        ("gateway.meter.journal", "trim", "after"),
    ],
)
async def test_a_killed_writer_loses_and_repeats_nothing(house: House, room: str, name: str, side: str) -> None:
    user_id = await house.a_user(credits_given=100)
    await house.load(user_id)
    calls = {UUID(await house.call(user_id, charge=3)) for _ in range(10)}
    arguments = (house.database.url, house.url, str(PARTITIONS), room, name, side)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"stopped\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    writer = UsageWriter(house.database, house.journal)
    async with asyncio.timeout(10):
        while await house.journal.length():  # until PostgreSQL has noticed that the claim's holder is gone
            await writer.run_once()
    async with house.database.read() as connection:
        rows = (await connection.execute(text("SELECT request_id FROM usage_tracking"))).scalars().all()
    assert len(rows) == 10
    assert set(rows) == calls
    assert (await house.balance(user_id)).current_credits == 70
