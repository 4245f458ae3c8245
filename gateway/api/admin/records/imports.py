"""Imports from other systems, which `gateway import` runs: their progress and cancellation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.background_runs import RunState
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.importing import imports

router = APIRouter(prefix="/imports", tags=["imports"])


class ImportSection(ResponseModel):
    """A kind of record; its rows are read, and each of those is imported, present or refused."""

    section: str = Field(examples=["users"])
    table: str | None = Field(default=None, description="Of the source; null until it is this section's turn.")
    total: int = Field(description="Its rows, when the import began.")
    read: int = 0
    imported: int = 0
    present: int = Field(default=0, description="Were here already.")
    refused: int = 0


class Import(ResponseModel):
    id: UUID
    source: str = Field(description="The name that the mapping gives it.", examples=["acme"])
    state: RunState
    is_cancel_requested: bool = Field(description="It stops after its current batch.")
    sections: list[ImportSection] = Field(description="In their order.")
    started_at: datetime
    last_progress_at: datetime = Field(description="When it last stored its progress, as it does after each batch.")
    ended_at: datetime | None


@router.get("", summary="List imports from other systems")
async def list_imports(query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Import]:
    """Newest first. `gateway import` begins one; dry runs are not among them."""
    async with unit_of_work.read() as connection:
        page = await imports.list_imports(connection, cursor=query.cursor, limit=query.limit)
    return page_of(page, _rendered)


@router.post("/{import_id}/cancel", summary="Cancel an import", responses=UNKNOWN)
async def cancel_import(import_id: UUID, unit_of_work: UnitOfWorkDep) -> Import:
    """It stops after its current batch. What it has written stays, and the same command resumes it."""
    async with unit_of_work.change() as change:
        before, after = await imports.request_cancel(change.connection, import_id)
        if after is not before:
            await change.record(
                "imports.cancel", "import", entity_id=import_id, before=_rendered(before), after=_rendered(after)
            )
    return _rendered(after)


def _rendered(row: imports.Import) -> Import:
    return Import(
        id=row.id,
        source=row.source,
        state=RunState(row.state),
        is_cancel_requested=row.is_cancel_requested,
        sections=[ImportSection.model_validate(section) for section in row.sections],
        started_at=row.created_at,
        last_progress_at=row.updated_at,
        ended_at=row.ended_at,
    )
