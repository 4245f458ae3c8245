"""Journal entries that PostgreSQL refused, kept as they came, in the transaction that passes them over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, columns, page_by_number
from gateway.ledger.db.tables import journal_poison


@dataclass(frozen=True, slots=True)
class Poison:
    """`line` is what stood in the stream of `partition` under `entry_id`; `reason` is PostgreSQL's."""

    id: int
    partition: int
    entry_id: str
    line: bytes
    reason: str
    created_at: datetime


async def keep(connection: AsyncConnection, *, partition: int, entry_id: str, line: bytes, reason: str) -> bool:
    """Writes an entry down; False if it stood there already."""
    poison = {"partition": partition, "entry_id": entry_id, "line": line, "reason": reason}
    written = await connection.execute(
        insert(journal_poison).values(poison).on_conflict_do_nothing().returning(journal_poison.c.id)
    )
    return written.one_or_none() is not None


async def list_poison(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 50) -> Page[Poison]:
    """What was refused, newest first."""
    query = select(*columns(journal_poison, Poison))
    return await page_by_number(connection, query, Poison, cursor=cursor, limit=limit)
