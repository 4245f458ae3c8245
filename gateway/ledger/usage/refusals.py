"""Counts the refused requests of known keys per minute, and sums them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Date, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, decode_cursor, encode_cursor
from gateway.ledger.db.tables import api_keys, refused_requests


@dataclass(frozen=True, slots=True, order=True)
class RefusedIn:
    """A counter of refusals; `minute` is its start, in UTC."""

    api_key_id: UUID
    endpoint: str
    code: str
    minute: datetime


# Only keys that exist, so that a deleted one does not fail the batch; sorted, so that two batches cannot deadlock.
_ADD = text("""
    INSERT INTO refused_requests AS r (api_key_id, endpoint, code, minute, count)
    SELECT n.* FROM unnest(CAST(:keys AS uuid[]), CAST(:endpoints AS text[]), CAST(:codes AS text[]),
                           CAST(:minutes AS timestamptz[]), CAST(:counts AS bigint[]))
                    AS n (api_key_id, endpoint, code, minute, count)
      JOIN api_keys k ON k.id = n.api_key_id
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (api_key_id, endpoint, code, minute) DO UPDATE SET count = r.count + excluded.count
""")


class RefusalDimension(StrEnum):
    DAY = "day"
    ENDPOINT = "endpoint"
    CODE = "code"
    KEY = "key"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalFilter:
    """None matches all. Times are those of the request, to the minute."""

    since: datetime
    until: datetime
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    endpoint: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class RefusalGroup:
    """The refused requests of one group; None for what they are not grouped by. Days are those of UTC."""

    day: date | None
    endpoint: str | None
    code: str | None
    api_key_id: UUID | None
    user_id: UUID | None
    requests: int


_ROW = refused_requests.c
_KEYS = {
    RefusalDimension.DAY: cast(func.timezone("UTC", _ROW.minute), Date).label("day"),
    RefusalDimension.ENDPOINT: _ROW.endpoint,
    RefusalDimension.CODE: _ROW.code,
    RefusalDimension.KEY: _ROW.api_key_id,
    RefusalDimension.USER: api_keys.c.user_id,
}
_NAMES = ("day", "endpoint", "code", "api_key_id", "user_id")


async def group_refusals(
    connection: AsyncConnection,
    wanted: RefusalFilter,
    by: Sequence[RefusalDimension],
    *,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[RefusalGroup]:
    """The most refused first, then in the order of `by`. Raises InvalidCursor."""
    first = 0 if cursor is None else decode_cursor(cursor)
    keys = [_KEYS[dimension] for dimension in by]
    requests = func.sum(_ROW["count"]).label("requests")
    query = select(*keys, requests).join_from(refused_requests, api_keys, api_keys.c.id == _ROW.api_key_id)
    query = query.where(_ROW.minute >= wanted.since, _ROW.minute < wanted.until).group_by(*keys)
    for column, expected in (
        (api_keys.c.user_id, wanted.user_id),
        (_ROW.api_key_id, wanted.api_key_id),
        (_ROW.endpoint, wanted.endpoint),
        (_ROW.code, wanted.code),
    ):
        if expected is not None:
            query = query.where(column == expected)
    rows = (await connection.execute(query.order_by(requests.desc(), *keys).offset(first).limit(limit + 1))).all()
    data = tuple(_group(row._mapping) for row in rows[:limit])  # noqa: SLF001 - public by SQLAlchemy's documentation
    return Page(data, encode_cursor(first + limit) if len(rows) > limit else None)


def _group(row: Any) -> RefusalGroup:
    return RefusalGroup(**{name: row.get(name) for name in _NAMES}, requests=int(row["requests"]))


async def add(connection: AsyncConnection, counts: Mapping[RefusedIn, int]) -> None:
    """Adds to the counters, and creates those that are missing."""
    if not counts:
        return
    columns = {
        "keys": [refused.api_key_id for refused in counts],
        "endpoints": [refused.endpoint for refused in counts],
        "codes": [refused.code for refused in counts],
        "minutes": [refused.minute for refused in counts],
        "counts": list(counts.values()),
    }
    await connection.execute(_ADD, columns)


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How many requests of an account to a route were refused for a reason, and in which minute the last of them."""

    endpoint: str
    code: str
    count: int
    last_at: datetime


# By the keys of the account: the primary key begins with one.
_OF_USER = text("""
    SELECT r.endpoint, r.code, sum(r.count)::bigint AS count, max(r.minute) AS last_at
      FROM api_keys k JOIN refused_requests r ON r.api_key_id = k.id
     WHERE k.user_id = :user_id AND r.minute >= :since
     GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT :limit
""")


async def list_for_user(
    connection: AsyncConnection, user_id: UUID, *, since: datetime, limit: int
) -> tuple[RefusalCount, ...]:
    """The most frequent first."""
    found = await connection.execute(_OF_USER, {"user_id": user_id, "since": since, "limit": limit})
    return tuple(RefusalCount(**row._mapping) for row in found)  # noqa: SLF001 - public by SQLAlchemy's documentation
