"""Sums one figure of usage a day, apart for the largest values of a dimension."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, timedelta
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import ColumnElement, Date, Select, Subquery, case, cast, func, null, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.usage.analytics import COLUMN_OF, Dimension, Measure, read_in_time
from gateway.ledger.usage.figures import figures
from gateway.ledger.usage.history import UsageFilter

# What the sums of hours keep apart.
Split = Literal[Dimension.ENDPOINT, Dimension.PLAN, Dimension.MODEL, Dimension.OUTCOME]


@dataclass(frozen=True, slots=True)
class Series:
    """The sums of one value on each day. `is_rest`: of all values that have no series of their own."""

    value: str | None
    is_rest: bool
    sums: tuple[int | Decimal, ...]


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """The days of a span in UTC, and the series of largest sum first, the rest last."""

    days: tuple[date, ...]
    series: tuple[Series, ...]


async def sum_daily(
    connection: AsyncConnection, wanted: UsageFilter, measure: Measure, *, split: Split | None, limit: int
) -> DailyUsage:
    """At most `limit` series, at least 2, without those that come to nothing. Raises TooMuch.

    `wanted` must have both ends.
    """
    if wanted.since is None or wanted.until is None:
        raise ValueError("sums by day need a span with both ends")
    first, last = wanted.since.astimezone(UTC).date(), (wanted.until - _MOMENT).astimezone(UTC).date()
    days = tuple(first + timedelta(days=ago) for ago in range((last - first).days + 1))
    rows = await read_in_time(connection, _query(figures(wanted, by_call=False), measure, split=split, limit=limit))
    exact = Decimal if measure is Measure.COST_USD else int
    sums: dict[tuple[str | None, bool], dict[date, int | Decimal]] = {}
    for row in rows:
        sums.setdefault((row.value, row.is_rest), {})[row.day] = exact(row.amount)
    series = (
        Series(value, is_rest, tuple(of_day.get(day, exact(0)) for day in days))
        for (value, is_rest), of_day in sums.items()
    )
    return DailyUsage(days, tuple(series))


_MOMENT = timedelta(microseconds=1)


def _query(rows: Subquery, measure: Measure, *, split: Split | None, limit: int) -> Select[Any]:
    """A row for each day and series, the series in their order."""
    key: ColumnElement[Any] = null() if split is None else rows.c[COLUMN_OF[split]]
    day = cast(func.timezone("UTC", rows.c.at), Date)
    grouped = (day,) if split is None else (day, key)
    of_value = select(day.label("day"), key.label("value"), func.sum(rows.c[measure]).label("amount"))
    by_value = of_value.group_by(*grouped).subquery("by_value")
    total = func.sum(by_value.c.amount).over(partition_by=by_value.c.value)
    totals = select(by_value, total.label("total")).subquery("totals")
    place = func.dense_rank().over(order_by=(totals.c.total.desc(), totals.c.value))
    ranked = select(totals, place.label("place")).where(totals.c.total != 0).subquery("ranked")
    last = case((func.max(ranked.c.place).over() > limit, limit), else_=limit + 1)
    placed = select(ranked, func.least(ranked.c.place, last).label("series"), last.label("rest")).subquery("placed")
    is_rest = placed.c.series == placed.c.rest
    value = case((is_rest, null()), else_=placed.c.value)
    return (
        select(placed.c.day, is_rest.label("is_rest"), value.label("value"), func.sum(placed.c.amount).label("amount"))
        .group_by(placed.c.series, placed.c.day, is_rest, value)
        .order_by(placed.c.series, placed.c.day)
    )
