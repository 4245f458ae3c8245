"""The analysis history of the caller."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from gateway.api import csv_export
from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.account.records.usage import CallQuery
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.pages import PageModel, ResponseModel, page_of
from gateway.ledger.usage import history
from policies.model import Outcome

router = APIRouter(prefix="/me", tags=["usage"], responses=SIGNED_IN)


class OwnAnalysis(ResponseModel):
    id: UUID
    request_id: UUID
    created_at: datetime
    api_key_id: UUID | None
    analysis_type: str
    file_name: str | None
    file_size_bytes: int | None
    file_sha256: str | None
    content_type: str | None
    status: Outcome
    response_time_ms: int | None
    credits_charged: int
    result_summary: dict[str, Any]


@router.get("/history", summary="Your analyses", response_model=PageModel[OwnAnalysis], responses=csv_export.CSV)
async def list_history(
    query: Annotated[CallQuery, Query()], request: Request, me: Me, dependencies: DependenciesDep
) -> PageModel[OwnAnalysis] | Response:
    """Newest first. `endpoint` filters by `analysis_type`, `outcome` by `status`."""

    async def page(cursor: str | None, limit: int) -> PageModel[OwnAnalysis]:
        async with dependencies.database.read() as connection:
            found = await history.list_analyses(connection, query.filter(me.id), cursor=cursor, limit=limit)
        return page_of(found, OwnAnalysis.model_validate)

    if csv_export.is_requested(request, query.format):
        return csv_export.stream(tuple(OwnAnalysis.model_fields), page, file_name="history.csv")
    return await page(query.cursor, query.limit)
