"""The analysis history: one row for each admitted request to a route of usage type `analysis`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.admin.records.usage import RecordQuery
from gateway.api.schemas.pages import PageModel, ResponseModel, page_of
from gateway.ledger.usage import history
from policies.model import Outcome

router = APIRouter(prefix="/analysis-history", tags=["usage"])


class Analysis(ResponseModel):
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
    status: Outcome
    response_time_ms: int | None
    credits_charged: int
    result_summary: dict[str, Any]


@router.get("", summary="List analyses")
async def list_analyses(query: Annotated[RecordQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Analysis]:
    """Newest first. `endpoint` filters by `analysis_type`, `outcome` by `status`."""
    async with unit_of_work.read() as connection:
        page = await history.list_analyses(connection, query.filter(), cursor=query.cursor, limit=query.limit)
    return page_of(page, Analysis.model_validate)
