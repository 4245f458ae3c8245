"""Sums by hour are those of the calls: after replays, corrections and by every key, for spans that cut hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import Database
from gateway.ledger.db.tables.usage import SUMMED
from gateway.ledger.usage.analytics import Dimension, UsageGroup, group_usage
from gateway.ledger.usage.figures import figures
from gateway.ledger.usage.history import UsageFilter, UsageRow, stream_usage
from gateway.ledger.usage.ingestion import ingest
from tests.ledger.make import a_line
from tests.ledger.usage.random_calls import BEGIN, FILTERS, HOURS, an_instant, write_calls

DIMENSIONS = (Dimension.DAY, Dimension.ENDPOINT, Dimension.PLAN, Dimension.MODEL, Dimension.OUTCOME)


def _grouped(rows: Iterable[UsageRow], by: list[Dimension]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The same sums by a second bookkeeping."""
    of = {
        Dimension.DAY: lambda row: row.created_at.date(),
        Dimension.ENDPOINT: lambda row: row.endpoint,
        Dimension.PLAN: lambda row: row.plan_id,
        Dimension.MODEL: lambda row: row.model,
        Dimension.OUTCOME: lambda row: row.outcome,
    }
    groups = defaultdict[tuple[Any, ...], list[UsageRow]](list)
    for row in rows:
        groups[tuple(of[dimension](row) for dimension in by)].append(row)
    return {key: _summed(members) for key, members in groups.items()}


def _summed(rows: list[UsageRow]) -> dict[str, Any]:
    times = [row.response_time_ms for row in rows if row.response_time_ms is not None]
    return {
        "requests": len(rows),
        "succeeded": sum(row.outcome == "succeeded" for row in rows),
        "cost_unknown": sum(row.cost_usd is None for row in rows),
        **{name: sum(getattr(row, name) or 0 for row in rows) for name in SUMMED if name != "cost_usd"},
        "cost_usd": sum((row.cost_usd or Decimal(0) for row in rows), Decimal(0)),
        "response_time_ms": round(Decimal(sum(times)) / len(times)) if times else None,
    }


def _key(group: UsageGroup, by: list[Dimension]) -> tuple[Any, ...]:
    names = {Dimension.PLAN: "plan_id"}
    return tuple(getattr(group, names.get(dimension, dimension)) for dimension in by)


@pytest.mark.parametrize("seed", range(3))
async def test_sums_of_any_span_are_those_of_its_calls(connection: AsyncConnection, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a fixed history
    await write_calls(connection, random)
    for _ in range(12):
        since, until = sorted((an_instant(random), an_instant(random)))
        if random.random() < 0.4:
            since, until = since.replace(minute=0, second=0, microsecond=0), BEGIN + timedelta(hours=HOURS + 1)
        wanted = replace(random.choice(FILTERS), since=since, until=until)
        by = random.sample(DIMENSIONS, random.randint(1, 3))
        rows = [row async for row in stream_usage(connection, wanted)]
        found = (await group_usage(connection, wanted, by, limit=500)).data
        names = _summed([])
        assert {_key(group, by): {name: getattr(group, name) for name in names} for group in found} == _grouped(
            rows, by
        )


async def test_whole_hours_are_read_from_sums_and_a_user_from_calls(connection: AsyncConnection) -> None:
    whole = UsageFilter(since=BEGIN, until=BEGIN + timedelta(hours=2))
    cut = UsageFilter(since=BEGIN + timedelta(minutes=1), until=BEGIN + timedelta(hours=2))
    within = UsageFilter(since=BEGIN + timedelta(minutes=1), until=BEGIN + timedelta(minutes=2))
    of_a_user = UsageFilter(since=BEGIN, until=BEGIN + timedelta(hours=2), user_id=UUID(int=1))
    reads = {name: str(figures(span, by_call=False)) for name, span in locals().items() if name != "connection"}
    assert {name: ("usage_hours" in query, "usage_tracking" in query) for name, query in reads.items()} == {
        "whole": (True, False),
        "cut": (True, True),
        "within": (False, True),
        "of_a_user": (False, True),
    }
    assert "usage_hours" not in str(figures(whole, by_call=True))


async def test_sums_outlive_the_calls_of_a_dropped_month(own_database_url: str) -> None:
    database = Database(own_database_url)
    async with database.transaction() as connection:
        await ingest(connection, [a_line(uuid4(), at=BEGIN, credits_charged=3)])
        await connection.execute(text("TRUNCATE usage_tracking"))
        span = UsageFilter(since=BEGIN, until=BEGIN + timedelta(hours=1))
        (group,) = (await group_usage(connection, span, [Dimension.ENDPOINT])).data
        assert (group.requests, group.credits_charged) == (1, 3)
    await database.close()
