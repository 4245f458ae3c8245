"""The audit log: every change with its actor and reason."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.audit import audit_chain, audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from policies.audit_chain import ChainBreak

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


class AuditChain(ResponseModel):
    """Whether every entry is as it was written; `gateway audit verify` also checks it against a kept anchor."""

    is_whole: bool
    entries: int
    anchor: str = Field(description="Number and hash of the newest entry, to be kept elsewhere.")
    broken_at: int | None = Field(description="The first entry at which the chain breaks.")
    reason: str | None


@router.get("/chain", summary="Verify the chain of the log")
async def get_audit_chain(unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep) -> AuditChain:
    """Reads the whole log, as it was when the walk began."""
    async with unit_of_work.read() as connection:
        found = await audit_chain.verify(connection, audit_chain.keys_of(dependencies.peppers))
        head = await audit_chain.get_head(connection)
    broken = found if isinstance(found, ChainBreak) else None
    return AuditChain(
        is_whole=broken is None,
        entries=head.last_id,
        anchor=head.anchor,
        broken_at=None if broken is None else broken.id,
        reason=None if broken is None else broken.reason,
    )
