"""Reads usage rows and analyses, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import analysis_history, usage_tracking

ROWS_PER_FETCH = 500
_UUID7 = 7
_LAST = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000)  # beyond, datetime has no days to add
# The clocks of gateway and Redis differ by less, and no call waits longer for its admission.
_NEAR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class UsageRow:
    request_id: UUID
    created_at: datetime
    user_id: UUID
    api_key_id: UUID | None
    subscription_id: UUID | None
    plan_id: str | None
    endpoint: str
    method: str
    path: str
    usage_type: str
    outcome: str
    status_code: int | None
    error_code: str | None
    credits_charged: int
    product_count: int
    tokens_used: int | None
    model: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    usage_source: str | None
    cost_usd: Decimal | None
    language_code: str | None
    category: str | None
    batch_id: str | None
    request_bytes: int | None
    response_bytes: int | None
    file_size_bytes: int | None
    response_time_ms: int | None
    upstream_time_ms: int | None
    client_ip: str | None
    client_request_id: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Analysis:
    id: UUID
    request_id: UUID
    created_at: datetime
    user_id: UUID
    api_key_id: UUID | None
    subscription_id: UUID | None
    analysis_type: str
    file_name: str | None
    file_size_bytes: int | None
    file_sha256: str | None
    content_type: str | None
    status: str
    response_time_ms: int | None
    credits_charged: int
    result_summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """None matches all. From `since` on, before `until`; either excludes the partitions of other months."""

    user_id: UUID | None = None
    api_key_id: UUID | None = None
    plan_id: str | None = None
    endpoint: str | None = None
    usage_type: str | None = None
    outcome: str | None = None
    model: str | None = None
    usage_source: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_usage(
    connection: AsyncConnection, wanted: UsageFilter, *, cursor: str | None = None, limit: int = 50
) -> Page[UsageRow]:
    query = matching(select(*columns(usage_tracking, UsageRow)), usage_tracking, wanted)
    return await page_by_time(connection, query, UsageRow, key="request_id", cursor=cursor, limit=limit)


async def get_usage(connection: AsyncConnection, request_id: UUID) -> UsageRow | None:
    """One call, from the months in which an id of ours can have been made; another id is looked for in all."""
    query = select(*columns(usage_tracking, UsageRow)).where(usage_tracking.c.request_id == request_id)
    if (span := span_of(request_id)) is not None:
        query = query.where(usage_tracking.c.created_at.between(*span))
    row = (await connection.execute(query.limit(1))).one_or_none()
    return None if row is None else value(UsageRow, row)


def span_of(request_id: UUID) -> tuple[datetime, datetime] | None:
    """When a call of this id was admitted, by the milliseconds of a UUIDv7; None for an id that does not tell."""
    milliseconds = request_id.int >> 80
    if request_id.version != _UUID7 or milliseconds > _LAST:
        return None
    made_at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return made_at - _NEAR, made_at + _NEAR


async def stream_usage(connection: AsyncConnection, wanted: UsageFilter) -> AsyncIterator[UsageRow]:
    """All matching rows, oldest first, a few at a time in memory. For exports."""
    query = matching(select(*columns(usage_tracking, UsageRow)), usage_tracking, wanted)
    rows = await connection.stream(query.order_by(usage_tracking.c.created_at, usage_tracking.c.request_id))
    async for some in rows.partitions(ROWS_PER_FETCH):
        for row in some:
            yield value(UsageRow, row)


async def count_usage(connection: AsyncConnection, wanted: UsageFilter) -> int:
    """How many rows match."""
    query = matching(select(func.count()).select_from(usage_tracking), usage_tracking, wanted)
    found: int = (await connection.execute(query)).scalar_one()
    return found


async def list_analyses(
    connection: AsyncConnection, wanted: UsageFilter, *, cursor: str | None = None, limit: int = 50
) -> Page[Analysis]:
    query = matching(select(*columns(analysis_history, Analysis)), analysis_history, wanted)
    return await page_by_time(connection, query, Analysis, cursor=cursor, limit=limit)


_USAGE_FILTERS = ("plan_id", "usage_type", "model", "usage_source")  # columns that analysis_history lacks

# The history calls a route's name and an outcome by other names.
_NAMES = {
    usage_tracking: {"endpoint": "endpoint", "outcome": "outcome"},
    analysis_history: {"endpoint": "analysis_type", "outcome": "status"},
}


def matching(query: Select[Any], table: Table, wanted: UsageFilter) -> Select[Any]:
    """The query narrowed to the rows of the table that are wanted."""
    equal = {
        "user_id": wanted.user_id,
        "api_key_id": wanted.api_key_id,
        **({name: getattr(wanted, name) for name in _USAGE_FILTERS} if table is usage_tracking else {}),
        _NAMES[table]["endpoint"]: wanted.endpoint,
        _NAMES[table]["outcome"]: wanted.outcome,
    }
    query = query.where(*(table.c[name] == needed for name, needed in equal.items() if needed is not None))
    if wanted.since is not None:
        query = query.where(table.c.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(table.c.created_at < wanted.until)
    return query
