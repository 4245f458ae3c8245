"""Every row gets to the partition of its month, also if it came before the partition."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.month_partitions import (
    MonthPartition,
    create_missing,
    drop,
    list_ended,
    list_partitions,
    month_before,
)
from gateway.ledger.db.session import Database
from gateway.ledger.usage.history import UsageFilter, list_usage
from gateway.ledger.usage.ingestion import IngestResult, ingest
from tests.ledger.make import a_line

LAST_MOMENT = datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


async def _where_rows_are(connection: AsyncConnection) -> list[str]:
    rows = await connection.scalars(text("SELECT tableoid::regclass::text FROM usage_tracking ORDER BY created_at"))
    return list(rows)


async def test_month_partitions_are_created_ahead_across_a_year_end(connection: AsyncConnection) -> None:
    made = await create_missing(connection, now=LAST_MOMENT, months_ahead=2)
    assert [one.name for one in made if one.table == "usage_tracking"] == [
        "usage_tracking_2026_12",
        "usage_tracking_2027_01",
        "usage_tracking_2027_02",
    ]
    assert set(made) == set(await list_partitions(connection))


async def test_month_partitions_are_created_once(connection: AsyncConnection) -> None:
    await create_missing(connection, now=LAST_MOMENT)
    assert await create_missing(connection, now=LAST_MOMENT) == ()


async def test_rows_move_from_the_default_partition_to_their_month(connection: AsyncConnection) -> None:
    user_id, first_moment = uuid4(), datetime(2027, 1, 1, tzinfo=UTC)
    lines = [
        a_line(user_id, at=at, usage_type="analysis")
        for at in (LAST_MOMENT, first_moment, datetime(2031, 1, 1, tzinfo=UTC))
    ]
    await ingest(connection, lines)
    assert await _where_rows_are(connection) == ["usage_tracking_default"] * 3
    await create_missing(connection, now=LAST_MOMENT, months_ahead=1)
    months = ["usage_tracking_2026_12", "usage_tracking_2027_01", "usage_tracking_default"]
    assert await _where_rows_are(connection) == months
    assert len((await list_usage(connection, UsageFilter(user_id=user_id))).data) == 3


async def test_replay_across_a_new_month_partition_changes_nothing(connection: AsyncConnection) -> None:
    line = a_line(uuid4(), at=LAST_MOMENT, usage_type="analysis")
    await ingest(connection, [line])
    await create_missing(connection, now=LAST_MOMENT)
    assert await ingest(connection, [line]) == IngestResult(0, 0)


async def test_month_partitions_are_dropped_after_their_end_only(connection: AsyncConnection) -> None:
    await create_missing(connection, now=LAST_MOMENT, months_ahead=1)
    assert await list_ended(connection, LAST_MOMENT) == ()
    ended = await list_ended(connection, datetime(2027, 1, 1, tzinfo=UTC))
    await drop(connection, ended)
    assert [one.name for one in ended] == ["analysis_history_2026_12", "usage_tracking_2026_12"]
    january = datetime(2027, 1, 1, tzinfo=UTC)
    left = (MonthPartition("analysis_history", january), MonthPartition("usage_tracking", january))
    assert await list_partitions(connection) == left


def test_months_are_counted_back_across_year_ends() -> None:
    counted = [month_before(LAST_MOMENT, months) for months in (0, 11, 12, 13)]
    assert [(each.year, each.month, each.day, each.hour) for each in counted] == [
        (2026, 12, 1, 0),
        (2026, 1, 1, 0),
        (2025, 12, 1, 0),
        (2025, 11, 1, 0),
    ]


async def test_month_partitions_are_created_concurrently_with_writes(own_database_url: str) -> None:
    database, user_id = Database(own_database_url, pool_size=4), uuid4()

    async def write() -> None:
        async with database.transaction() as connection:
            await ingest(connection, [a_line(user_id, at=LAST_MOMENT) for _ in range(5)])

    async def make() -> None:
        async with database.transaction() as connection:
            await create_missing(connection, now=LAST_MOMENT)

    await asyncio.gather(*(job() for _ in range(4) for job in (write, make)))
    async with database.read() as connection:
        assert await _where_rows_are(connection) == ["usage_tracking_2026_12"] * 20
    await database.close()
