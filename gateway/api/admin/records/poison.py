"""Journal entries that PostgreSQL refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.usage import poison

router = APIRouter(prefix="/poison-entries", tags=["journal"])


class PoisonEntry(ResponseModel):
    id: int
    partition: int
    entry_id: str = Field(description="The entry's id in the partition's journal.")
    line: str = Field(description="The record; bytes that are no text read as `\\xNN`.")
    reason: str = Field(description="PostgreSQL's.")
    created_at: datetime


@router.get("", summary="List journal entries that were set aside")
async def list_poison_entries(
    query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[PoisonEntry]:
    """Newest first. They charged nobody, and are stored only here."""
    async with unit_of_work.read() as connection:
        page = await poison.list_poison(connection, cursor=query.cursor, limit=query.limit)
    return page_of(page, _rendered)


def _rendered(entry: poison.PoisonEntry) -> PoisonEntry:
    return PoisonEntry(
        id=entry.id,
        partition=entry.partition,
        entry_id=entry.entry_id,
        line=entry.line.decode("utf-8", "backslashreplace"),
        reason=entry.reason,
        created_at=entry.created_at,
    )
