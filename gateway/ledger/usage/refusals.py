"""Counts the refused requests of known keys per minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


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
