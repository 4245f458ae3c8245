"""Refusals are counted per minute; the audit log lists the history of an entity."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db.session import run_commit_steps
from gateway.ledger.db.tables import refused_requests
from gateway.ledger.usage import refusals
from gateway.ledger.usage.refusals import RefusedIn
from tests.ledger.make import NOON, a_key, a_user


async def test_refusals_of_a_minute_add_up(connection: AsyncConnection) -> None:
    key = await a_key(connection, (await a_user(connection)).id)
    limited = RefusedIn(key.id, "analyze", "rate_limited", NOON)
    broke = RefusedIn(key.id, "analyze", "insufficient_credits", NOON)
    later = RefusedIn(key.id, "analyze", "rate_limited", NOON + timedelta(minutes=1))
    await refusals.add(connection, {limited: 3, broke: 1})
    await refusals.add(connection, {limited: 2, later: 5})
    await refusals.add(connection, {})
    rows = (await connection.execute(select(refused_requests).where(refused_requests.c.api_key_id == key.id))).all()
    counted = {RefusedIn(row.api_key_id, row.endpoint, row.code, row.minute): row._mapping["count"] for row in rows}
    assert counted == {limited: 5, broke: 1, later: 5}


async def test_refusals_of_a_deleted_key_do_not_lose_others(connection: AsyncConnection) -> None:
    key = await a_key(connection, (await a_user(connection)).id)
    gone = RefusedIn(uuid4(), "analyze", "rate_limited", NOON)
    kept = RefusedIn(key.id, "analyze", "rate_limited", NOON)
    await refusals.add(connection, {gone: 1, kept: 1})
    rows = await connection.execute(select(refused_requests.c.api_key_id))
    assert [row.api_key_id for row in rows] == [key.id]


async def test_audit_log_lists_the_history_of_an_entity(connection: AsyncConnection) -> None:
    plan_id, other = uuid4(), uuid4()
    await audit_log.append(
        connection, actor="admin:ada", action="create", entity="plan", entity_id=plan_id, after={"a": 1}
    )
    await audit_log.append(connection, actor="admin:ada", action="create", entity="plan", entity_id=other)
    await audit_log.append(
        connection,
        actor="admin:bob",
        action="change",
        entity="plan",
        entity_id=plan_id,
        before={"a": 1},
        after={"a": 2},
        reason="dearer",
    )
    await run_commit_steps(connection)
    entries = (await audit_log.list_entries(connection, AuditFilter(entity="plan", entity_id=plan_id))).data
    assert [(entry.actor, entry.action, entry.before, entry.after, entry.reason) for entry in entries] == [
        ("admin:bob", "change", {"a": 1}, {"a": 2}, "dearer"),
        ("admin:ada", "create", None, {"a": 1}, None),
    ]
