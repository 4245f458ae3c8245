"""There is always a partition for the month that begins next."""

from __future__ import annotations

from sqlalchemy import text

from gateway.ledger.db import month_partitions
from gateway.workers.usage.retention import MonthPartitionWorker
from tests.workers.conftest import Backend


async def test_missing_month_partitions_are_created_once(backend: Backend) -> None:
    async with backend.database.transaction() as connection:
        for partition in await month_partitions.list_partitions(connection):
            await connection.execute(text(f"DROP TABLE {partition.name}"))
    keeper = MonthPartitionWorker(backend.database)
    made = await keeper.run_once()
    assert made >= 4
    assert await keeper.run_once() == 0
    async with backend.database.read() as connection:
        assert len(await month_partitions.list_partitions(connection)) == made
