"""The audit log: who changed what, and why. Entries are written with the change and never rewritten.

An appended entry waits until its transaction is about to commit, and is sealed then (`audit_chain.py`). So the lock
that orders the entries is the last one taken and the shortest held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.audit.audit_chain import seal_entries
from gateway.ledger.db.rows import Page, columns, page_by_number
from gateway.ledger.db.session import before_commit
from gateway.ledger.db.tables import audit_log, audit_personal
from policies.audit_chain import DIGEST

ERASED = "(erased)"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A log entry with its personal data in place, or ERASED where that was erased."""

    id: int
    actor: str
    action: str
    entity: str
    entity_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """None matches all; `since` is inclusive, `until` exclusive."""

    actor: str | None = None
    action: str | None = None
    entity: str | None = None
    entity_id: object | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Stored(AuditEntry):
    personal_before: Mapping[str, Any] | None
    personal_after: Mapping[str, Any] | None


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
    """Appends an entry at the commit. `before` and `after` are JSON; the caller leaves out secrets."""
    entry = {
        "actor": actor,
        "action": action,
        "entity": entity,
        "entity_id": str(entity_id),
        "before": before,
        "after": after,
        "reason": reason,
    }
    before_commit(connection, seal_entries, entry)


async def list_entries(
    connection: AsyncConnection, filters: AuditFilter | None = None, *, cursor: str | None = None, limit: int = 50
) -> Page[AuditEntry]:
    """Newest first."""
    page = await page_by_number(connection, _matching(filters or AuditFilter()), _Stored, cursor=cursor, limit=limit)
    return Page(tuple(map(_merge_personal, page.data)), page.next_cursor)


async def has_entry(connection: AsyncConnection, *, entity: str, entity_id: object, actions: Collection[str]) -> bool:
    """Whether one of these was ever done to it."""
    of_it = (audit_log.c.entity == entity, audit_log.c.entity_id == str(entity_id), audit_log.c.action.in_(actions))
    return bool(await connection.scalar(select(exists().where(*of_it))))


async def erase_personal(connection: AsyncConnection, user_id: UUID) -> None:
    """Deletes a user's personal values and salts from the log. The entries and their seals stay valid."""
    await connection.execute(delete(audit_personal).where(audit_personal.c.user_id == user_id))


def _matching(filters: AuditFilter) -> Any:
    query = (
        select(
            *columns(audit_log, AuditEntry),
            audit_personal.c.before.label("personal_before"),
            audit_personal.c.after.label("personal_after"),
        )
        .select_from(audit_log)
        .outerjoin(audit_personal, audit_personal.c.audit_id == audit_log.c.id)
    )
    for name in ("actor", "action", "entity", "entity_id"):
        if (value := getattr(filters, name)) is not None:
            query = query.where(audit_log.c[name] == str(value))
    if filters.since is not None:
        query = query.where(audit_log.c.created_at >= filters.since)
    if filters.until is not None:
        query = query.where(audit_log.c.created_at < filters.until)
    return query


def _merge_personal(row: _Stored) -> AuditEntry:
    values = {item.name: getattr(row, item.name) for item in fields(AuditEntry)}
    values["before"] = _with_personal(row.before, row.personal_before)
    values["after"] = _with_personal(row.after, row.personal_after)
    return AuditEntry(**values)


def _with_personal(document: Mapping[str, Any] | None, personal: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if document is None:
        return None
    erased = {name: ERASED for name, value in document.items() if isinstance(value, dict) and value.keys() == {DIGEST}}
    return {**document, **erased, **(personal or {})}
