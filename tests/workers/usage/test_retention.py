"""Months go when their time is over, and not while the journal could still bring back one of their calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db import month_partitions
from gateway.ledger.usage.ingestion import ingest
from gateway.workers.usage.retention import RetentionWorker
from tests.ledger.make import a_line
from tests.workers.conftest import RECORD_FIELD, Backend


async def _a_year_of_months(backend: Backend, *, until: datetime) -> None:
    async with backend.database.transaction() as connection:
        await month_partitions.create_missing(connection, now=month_partitions.month_before(until, 12), months_ahead=12)


async def _months(backend: Backend) -> list[str]:
    async with backend.database.read() as connection:
        return [partition.name for partition in await month_partitions.list_partitions(connection)]


def _retention(backend: Backend, now: datetime, *, keep_months: int) -> RetentionWorker:
    return RetentionWorker(backend.database, backend.journal, keep_months=keep_months, now=lambda: now)


async def test_retention_drops_old_months_with_an_audit_entry(backend: Backend) -> None:
    now = datetime(2026, 3, 15, 12, tzinfo=UTC)
    await _a_year_of_months(backend, until=now)
    user_id = await backend.a_user()
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(user_id, at=now - timedelta(days=30 * back)) for back in range(12)])
    worker = _retention(backend, now, keep_months=2)
    assert await worker.run_once() == 2 * 10
    remaining = await _months(backend)
    assert [name for name in remaining if name.startswith("usage") and name < "usage_tracking_2026_04"] == [
        "usage_tracking_2026_01",
        "usage_tracking_2026_02",
        "usage_tracking_2026_03",
    ]
    async with backend.database.read() as connection:
        entries = (await audit_log.list_entries(connection, AuditFilter(entity="partition"), limit=100)).data
    assert {(entry.actor, entry.action) for entry in entries} == {("worker:retention", "usage.drop")}
    assert "usage_tracking_2025_12" in {entry.entity_id for entry in entries}
    assert await worker.run_once() == 0
    assert (await backend.balance(user_id)).total_credits_used == 12


async def test_retention_spares_a_month_that_the_journal_has_entries_of(backend: Backend) -> None:
    now = datetime.now(UTC)
    await _a_year_of_months(backend, until=now)
    user_id = await backend.a_user()
    at = month_partitions.month_before(now, 4) + timedelta(hours=1)
    journal = backend.meter.keys(user_id).journal
    entry = await backend.redis.xadd(
        journal, {RECORD_FIELD: a_line(user_id, at=at).strip()}, f"{at.timestamp() * 1000:.0f}-1"
    )
    before = await _months(backend)
    worker = _retention(backend, now, keep_months=2)
    assert await worker.run_once() == 0
    assert await _months(backend) == before
    assert entry is not None
    await backend.redis.xdel(journal, entry)
    assert await worker.run_once() == 2 * 10


async def test_retention_ignores_a_young_journal(backend: Backend) -> None:
    now = datetime.now(UTC)
    await _a_year_of_months(backend, until=now)
    user_id = await backend.a_user()
    await backend.load(user_id)
    await backend.call(user_id)
    assert await _retention(backend, now, keep_months=11).run_once() == 2
