"""The quarantine of journal entries that PostgreSQL refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import Page, columns, page_by_number
from gateway.ledger.db.tables import journal_poison


@dataclass(frozen=True, slots=True)
class PoisonEntry:
    """`line` is the record that the journal of `partition` had under `entry_id`; `reason` is PostgreSQL's."""

    id: int
    partition: int
    entry_id: str
    line: bytes
    reason: str
    created_at: datetime


async def quarantine(connection: AsyncConnection, *, partition: int, entry_id: str, line: bytes, reason: str) -> bool:
    """Stores a refused entry in the transaction that skips it; False if it is there already."""
    poison = {"partition": partition, "entry_id": entry_id, "line": line, "reason": reason}
    written = await connection.execute(
        insert(journal_poison).values(poison).on_conflict_do_nothing().returning(journal_poison.c.id)
    )
    return written.one_or_none() is not None


async def list_poison(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 50) -> Page[PoisonEntry]:
    """Newest first."""
    query = select(*columns(journal_poison, PoisonEntry))
    return await page_by_number(connection, query, PoisonEntry, cursor=cursor, limit=limit)
