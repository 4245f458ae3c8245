"""Sums by day are those of the calls, and no value is lost among the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.usage.analytics import Dimension, Measure
from gateway.ledger.usage.daily import Split, sum_daily
from gateway.ledger.usage.history import UsageFilter, UsageRow, stream_usage
from gateway.ledger.usage.ingestion import ingest
from tests.ledger.make import a_line
from tests.ledger.usage.random_calls import BEGIN, FILTERS, an_instant, write_calls

SPLITS: tuple[Split | None, ...] = (None, Dimension.ENDPOINT, Dimension.PLAN, Dimension.MODEL, Dimension.OUTCOME)
VALUE_OF: Mapping[Split | None, Callable[[UsageRow], str | None]] = {
    None: lambda _: None,
    Dimension.ENDPOINT: lambda row: row.endpoint,
    Dimension.PLAN: lambda row: row.plan_id,
    Dimension.MODEL: lambda row: row.model,
    Dimension.OUTCOME: lambda row: row.outcome,
}
SUM_OF: Mapping[Measure, Callable[[UsageRow], Decimal | int]] = {
    Measure.REQUESTS: lambda _: 1,
    Measure.CREDITS_CHARGED: lambda row: row.credits_charged,
    Measure.TOKENS_USED: lambda row: row.tokens_used or 0,
    Measure.COST_USD: lambda row: row.cost_usd or Decimal(0),
    Measure.COST_UNKNOWN: lambda row: int(row.cost_usd is None),
}


@pytest.mark.parametrize("seed", range(3))
async def test_sums_of_each_day_are_those_of_its_calls(connection: AsyncConnection, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a fixed history
    await write_calls(connection, random)
    for _ in range(15):
        since, until = sorted((an_instant(random), an_instant(random)))
        wanted = replace(random.choice(FILTERS), since=since, until=until)
        split, measure, limit = random.choice(SPLITS), random.choice(tuple(Measure)), random.randint(2, 4)
        found = await sum_daily(connection, wanted, measure, split=split, limit=limit)
        rows = [row async for row in stream_usage(connection, wanted)]
        totals = _totals(rows, split, measure)
        last = (until - timedelta(microseconds=1)).date()
        assert list(found.days) == [since.date() + timedelta(days=ago) for ago in range((last - since.date()).days + 1)]
        assert len(found.series) == min(limit, len(totals))
        own = [series.value for series in found.series if not series.is_rest]
        assert [sum(totals[value].values()) for value in own] == sorted(
            (sum(of_day.values()) for of_day in totals.values()), reverse=True
        )[: len(own)]
        assert [series.is_rest for series in found.series] == [False] * len(own) + [True] * (len(totals) > limit)
        for series in found.series:
            values = [value for value in totals if value not in own] if series.is_rest else [series.value]
            assert list(series.sums) == [sum(totals[value][day] for value in values) for day in found.days]


def _totals(rows: list[UsageRow], split: Split | None, measure: Measure) -> dict[str | None, dict[date, Any]]:
    """The sums of each value by day, by a second bookkeeping."""
    sums: dict[str | None, dict[date, Any]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sums[VALUE_OF[split](row)][row.created_at.date()] += SUM_OF[measure](row)
    return {value: of_day for value, of_day in sums.items() if sum(of_day.values())}


async def test_many_values_are_a_few_series_and_the_rest(connection: AsyncConnection) -> None:
    models = [f"model-{number:03}" for number in range(500)]
    lines = [
        a_line(uuid4(), at=BEGIN + timedelta(days=day), model=model, credits_charged=1 + (model == "model-007"))
        for model in models
        for day in range(3)
    ]
    await ingest(connection, lines)
    wanted = UsageFilter(since=BEGIN, until=BEGIN + timedelta(days=3))
    found = await sum_daily(connection, wanted, Measure.CREDITS_CHARGED, split=Dimension.MODEL, limit=6)
    assert [(series.value, series.is_rest) for series in found.series] == [
        ("model-007", False),
        *((f"model-00{number}", False) for number in range(4)),
        (None, True),
    ]
    assert [series.sums for series in found.series] == [(2, 2, 2, 0), *[(1, 1, 1, 0)] * 4, (495, 495, 495, 0)]
