"""A usage writer that is killed loses and repeats nothing: its transaction dies with its connection."""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.workers.usage.usage_writer import UsageWriter
from tests.workers.conftest import PARTITIONS, Backend

CALLS, CHARGE = 10, 3


@pytest.mark.parametrize(
    ("point", "side"),
    [("claim", "after"), ("ingest", "after"), ("advance", "after"), ("trim", "before"), ("trim", "after")],
)
async def test_usage_writer_killed_at_any_point_loses_and_repeats_nothing(
    backend: Backend, point: str, side: str
) -> None:
    user_id = await backend.a_user(credits_given=100)
    await backend.load(user_id)
    calls = {UUID(await backend.call(user_id, charge=CHARGE)) for _ in range(CALLS)}
    await _kill_a_writer(backend, point, side)
    writer = UsageWriter(backend.database, backend.journal)
    async with asyncio.timeout(10):
        while await backend.journal.length():  # until PostgreSQL has noticed that the claim's holder is gone
            await writer.run_once()
    async with backend.database.read() as connection:
        rows = (await connection.execute(text("SELECT request_id FROM usage_tracking"))).scalars().all()
    assert len(rows) == CALLS
    assert set(rows) == calls
    assert (await backend.balance(user_id)).current_credits == 100 - CALLS * CHARGE


async def _kill_a_writer(backend: Backend, point: str, side: str) -> None:
    program = "tests.guarantees.processes.stopping_usage_writer"
    arguments = (backend.database.url, backend.url, str(PARTITIONS), point, side)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"stopped\n"
    process.kill()
    await process.wait()
