"""Who changed what, and why: written in the transaction of the change, never rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.rows import Page, columns, page_by_number
from gateway.ledger.tables import audit_log


@dataclass(frozen=True, slots=True)
class AuditEntry:
    id: int
    actor: str
    action: str
    entity: str
    entity_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    reason: str | None
    created_at: datetime


async def append(
    connection: AsyncConnection,
    *,
    actor: str,
    action: str,
    entity: str,
    entity_id: object,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """`before` and `after` are what JSON can hold; secrets are the caller's to leave out."""
    await connection.execute(
        insert(audit_log).values(
            actor=actor,
            action=action,
            entity=entity,
            entity_id=str(entity_id),
            before=before,
            after=after,
            reason=reason,
        )
    )


async def list_entries(
    connection: AsyncConnection,
    *,
    entity: str | None = None,
    entity_id: object | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[AuditEntry]:
    query = select(*columns(audit_log, AuditEntry))
    if entity is not None:
        query = query.where(audit_log.c.entity == entity)
    if entity_id is not None:
        query = query.where(audit_log.c.entity_id == str(entity_id))
    return await page_by_number(connection, query, AuditEntry, cursor=cursor, limit=limit)
