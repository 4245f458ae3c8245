"""The audit log: every change with its actor and reason."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter

router = APIRouter(prefix="/audit-log", tags=["audit"])


class AuditEntry(ResponseModel):
    id: int = Field(description="Without gaps: the log is a chain that `gateway audit verify` walks.")
    actor: str
    action: str
    entity: str
    entity_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    created_at: datetime


class AuditQuery(PageQuery):
    actor: Line | None = Field(default=None, examples=["admin"])
    action: Line | None = Field(default=None, examples=["keys.create"])
    entity: Line | None = Field(default=None, examples=["key"])
    entity_id: Line | None = None
    since: Instant | None = Field(default=None, alias="from", description="From this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")


@router.get("", summary="List changes")
async def list_audit_log(query: Annotated[AuditQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[AuditEntry]:
    """Newest first. What was personal of a deleted user reads `(erased)`."""
    async with unit_of_work.read() as connection:
        matching = AuditFilter(**query.model_dump(exclude={"limit", "cursor"}))
        page = await audit_log.list_entries(connection, matching, cursor=query.cursor, limit=query.limit)
    return page_of(page, AuditEntry.model_validate)
