"""Aggregates usage by day, endpoint, plan, account, model, outcome and status, in bounds that protect the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Date, Label, Row, Select, Subquery, UnaryExpression, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, decode_cursor, encode_cursor
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.ledger.db.tables.usage import SUMMED
from gateway.ledger.usage.figures import figures
from gateway.ledger.usage.history import UsageFilter

MAX_SPAN = timedelta(days=366)
TIMEOUT_SECONDS = 5
_TIMED_OUT = "statement timeout"


class Dimension(StrEnum):
    DAY = "day"
    ENDPOINT = "endpoint"
    PLAN = "plan"
    USER = "user"
    MODEL = "model"
    KEY = "key"
    OUTCOME = "outcome"
    STATUS = "status"


class Measure(StrEnum):
    """The sums that groups are sorted by."""

    REQUESTS = "requests"
    CREDITS_CHARGED = "credits_charged"
    TOKENS_USED = "tokens_used"
    COST_USD = "cost_usd"
    COST_UNKNOWN = "cost_unknown"


class TooMuch(Exception):  # noqa: N818 - a response (422), not a fault
    """The aggregation takes longer than TIMEOUT_SECONDS."""


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """The calls of one group; None for what they are not grouped by. Days are those of UTC.

    `cost_usd` is without the calls whose cost is not known; `cost_unknown` counts them.
    """

    day: date | None
    endpoint: str | None
    plan_id: str | None
    user_id: UUID | None
    model: str | None
    api_key_id: UUID | None
    outcome: str | None
    status_code: int | None
    requests: int
    succeeded: int
    credits_charged: int
    product_count: int
    tokens_used: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal
    cost_unknown: int
    request_bytes: int
    response_bytes: int
    response_time_ms: int | None


async def group_usage(
    connection: AsyncConnection,
    wanted: UsageFilter,
    by: Sequence[Dimension],
    *,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[UsageGroup]:
    """By a Measure, descending with a leading `-`; then in ascending order of `by`, as it is given.

    Raises TooMuch, InvalidCursor.

    `wanted` must have both ends, so that no other month's partition is read.
    """
    first = 0 if cursor is None else decode_cursor(cursor)
    rows_of = figures(wanted, by_call=not _OF_CALLS.isdisjoint(by))
    keys, sums = [_key(dimension, rows_of) for dimension in by], _sums(rows_of)
    query = select(*keys, *sums.values()).group_by(*keys)
    query = query.having(sums["requests"].element > 0)  # what a correction has moved elsewhere leaves an empty sum
    query = query.order_by(*([] if sort is None else [_order(sort, sums)]), *keys)
    rows = await read_in_time(connection, query.offset(first).limit(limit + 1))
    data = tuple(_group(row._mapping) for row in rows[:limit])  # noqa: SLF001 - public by SQLAlchemy's documentation
    return Page(data, encode_cursor(first + limit) if len(rows) > limit else None)


async def read_in_time(connection: AsyncConnection, query: Select[Any]) -> Sequence[Row[Any]]:
    """Its rows. Raises TooMuch."""
    await connection.execute(text(f"SET LOCAL statement_timeout = {TIMEOUT_SECONDS * 1000}"))
    try:
        rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    except DatabaseUnavailable as error:
        if _TIMED_OUT in str(error):
            raise TooMuch from error
        raise
    return rows


# Which the sums of hours do not keep apart.
_OF_CALLS = frozenset((Dimension.USER, Dimension.KEY, Dimension.STATUS))
COLUMN_OF = {
    Dimension.DAY: "day",
    Dimension.ENDPOINT: "endpoint",
    Dimension.PLAN: "plan_id",
    Dimension.USER: "user_id",
    Dimension.MODEL: "model",
    Dimension.KEY: "api_key_id",
    Dimension.OUTCOME: "outcome",
    Dimension.STATUS: "status_code",
}


def _key(dimension: Dimension, rows: Subquery) -> ColumnElement[Any]:
    if dimension is Dimension.DAY:
        return cast(func.timezone("UTC", rows.c.at), Date).label("day")
    key: ColumnElement[Any] = rows.c[COLUMN_OF[dimension]]
    return key


def _sums(rows: Subquery) -> dict[str, Label[Any]]:
    summed = ("requests", "cost_unknown", *SUMMED)
    succeeded = func.sum(rows.c.requests).filter(rows.c.outcome == "succeeded")
    mean = func.sum(rows.c.response_time_ms) / func.nullif(func.sum(rows.c.timed_requests), 0)
    return {
        **{name: func.coalesce(func.sum(rows.c[name]), 0).label(name) for name in summed},
        "succeeded": func.coalesce(succeeded, 0).label("succeeded"),
        "response_time_ms": mean.label("response_time_ms"),
    }


def _order(sort: str, sums: dict[str, Label[Any]]) -> UnaryExpression[Any]:
    column = sums[sort.removeprefix("-")]
    return column.desc() if sort.startswith("-") else column.asc()


def _group(row: Any) -> UsageGroup:
    """PostgreSQL gives sums of integers as numerics."""
    keys: dict[str, Any] = {name: row.get(name) for name in COLUMN_OF.values()}
    sums: dict[str, Any] = {name: number for name, number in row.items() if name not in keys}
    mean = sums.pop("response_time_ms")
    cost = sums.pop("cost_usd")
    whole: dict[str, Any] = {name: int(number) for name, number in sums.items()}
    return UsageGroup(**keys, **whole, cost_usd=cost, response_time_ms=None if mean is None else round(mean))
