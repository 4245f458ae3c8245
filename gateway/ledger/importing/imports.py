"""Imports from other systems, with their progress: the process that imports stores it, and others may cancel it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import imports


@dataclass(frozen=True, slots=True)
class Import:
    """`sections` has the counts of each; `updated_at` is when the import last stored its progress."""

    id: UUID
    source: str
    state: str
    sections: Sequence[Mapping[str, Any]]
    is_cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


async def begin(connection: AsyncConnection, source: str) -> UUID:
    statement = insert(imports).values(source=source).returning(imports.c.id)
    begun: UUID = (await connection.execute(statement)).scalar_one()
    return begun


async def advance(connection: AsyncConnection, import_id: UUID, sections: Sequence[Mapping[str, Any]]) -> bool:
    """Stores the progress. False once somebody has asked for its cancellation."""
    statement = update(imports).where(imports.c.id == import_id).values(sections=sections)
    found = await connection.execute(statement.returning(imports.c.is_cancel_requested))
    return not found.scalar_one()


async def end(connection: AsyncConnection, import_id: UUID, state: str) -> None:
    await connection.execute(update(imports).where(imports.c.id == import_id).values(state=state, ended_at=func.now()))


async def request_cancel(connection: AsyncConnection, import_id: UUID) -> tuple[Import, Import]:
    """The import before and after; one that has ended stays as it is. Raises NotFound."""
    row = await connection.execute(_IMPORTS.where(imports.c.id == import_id).with_for_update())
    if (found := row.one_or_none()) is None:
        raise NotFound("import", import_id)
    before = value(Import, found)
    if before.state != "running" or before.is_cancel_requested:
        return before, before
    # This is no progress, so `updated_at` stays.
    changes = {"is_cancel_requested": True, "updated_at": imports.c.updated_at}
    statement = update(imports).where(imports.c.id == import_id).values(changes).returning(*columns(imports, Import))
    return before, value(Import, (await connection.execute(statement)).one())


async def list_imports(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 50) -> Page[Import]:
    """Newest first."""
    return await page_by_time(connection, _IMPORTS, Import, cursor=cursor, limit=limit)


_IMPORTS = select(*columns(imports, Import))
