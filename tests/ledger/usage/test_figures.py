"""Sums by hour are those of the calls: after replays, corrections and by every key, for spans that cut hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
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
from gateway.ledger.usage.ingestion import correct, ingest
from tests.ledger.make import NOON, a_line

HOURS = 30
BEGIN = NOON + timedelta(days=4000)  # no other test has calls then
FILTERS = (
    UsageFilter(),
    UsageFilter(endpoint="chat"),
    UsageFilter(plan_id="pro", usage_source="reported"),
    UsageFilter(model="m-1"),
    UsageFilter(outcome="abandoned"),
)
DIMENSIONS = (Dimension.DAY, Dimension.ENDPOINT, Dimension.PLAN, Dimension.MODEL, Dimension.OUTCOME)


def _columns(random: Random) -> dict[str, Any]:
    """What a call may have, and may lack."""
    counts = {name: random.choice((None, 0, random.randint(1, 2**40))) for name in SUMMED[2:8]}
    return {
        **counts,
        "endpoint": random.choice(("analyze", "chat")),
        "plan_id": random.choice((None, "free", "pro")),
        "model": random.choice((None, "m-1", "m-2")),
        "usage_source": random.choice((None, "reported", "estimated")),
        "cost_usd": random.choice((None, "0.000001", "12.5")),
        "product_count": random.choice((None, 1, 7)),
        "request_bytes": random.choice((None, 100)),
        "response_time_ms": random.choice((None, random.randint(0, 5000))),
        "credits_charged": random.randint(0, 9),
        "outcome": random.choice(("succeeded", "upstream_error", "client_aborted")),
    }


def _an_instant(random: Random) -> datetime:
    return BEGIN + timedelta(seconds=random.randint(0, HOURS * 3600), microseconds=random.randint(0, 999_999))


async def _live(connection: AsyncConnection, random: Random) -> None:
    """Batches of calls, some written twice, some swept as abandoned and settled late."""
    for _ in range(6):
        lines, late = [], []
        for _ in range(random.randint(1, 40)):
            fixed: dict[str, Any] = {"request_id": str(uuid4()), "at": _an_instant(random)}
            user, columns = uuid4(), _columns(random)
            if random.random() < 0.2:
                lines.append(a_line(user, **fixed, **columns | {"outcome": "abandoned", "credits_charged": 0}))
                late.append(a_line(user, **fixed, **columns))
            else:
                lines.append(a_line(user, **fixed, **columns))
        await ingest(connection, lines + random.sample(lines, len(lines) // 3))
        if late:
            await correct(connection, late + late[:1])
            await correct(connection, late)


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
    await _live(connection, random)
    for _ in range(12):
        since, until = sorted((_an_instant(random), _an_instant(random)))
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
