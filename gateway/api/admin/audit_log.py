"""Who changed what, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.collaborators import TheDesk
from gateway.api.fields import Line
from gateway.api.shapes import Listing, Paging, Shown, listing
from gateway.ledger import audit

router = APIRouter(prefix="/audit-log", tags=["audit"])


class AuditEntry(Shown):
    id: int
    actor: str
    action: str
    entity: str
    entity_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    created_at: datetime


class AuditList(Paging):
    entity: Line | None = Field(default=None, examples=["key"])
    entity_id: Line | None = None


@router.get("", summary="List changes")
async def list_audit_log(wanted: Annotated[AuditList, Query()], desk: TheDesk) -> Listing[AuditEntry]:
    async with desk.read() as connection:
        page = await audit.list_entries(
            connection, entity=wanted.entity, entity_id=wanted.entity_id, cursor=wanted.cursor, limit=wanted.limit
        )
    return listing(page, AuditEntry.model_validate)
