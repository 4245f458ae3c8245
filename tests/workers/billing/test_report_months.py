"""A month is closed once, a day after its end, when PostgreSQL has all of its usage; months in their order."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text

from gateway.ledger.reports import months
from gateway.ledger.reports.rows import Report
from gateway.ledger.usage.ingestion import ingest
from gateway.workers.billing.report_months import MonthCloser
from gateway.workers.usage.usage_writer import UsageWriter
from tests.ledger.make import a_line
from tests.workers.conftest import RECORD_FIELD, Backend

APRIL, MAY = date(2026, 4, 1), date(2026, 5, 1)
IN_APRIL = datetime(2026, 4, 20, tzinfo=UTC)
END = datetime(2026, 5, 1, tzinfo=UTC)


def _closer(backend: Backend, now: datetime) -> MonthCloser:
    return MonthCloser(backend.database, backend.journal, value=None, now=lambda: now)


async def test_month_is_closed_once_after_its_usage_is_written(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=0)
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(user_id, at=IN_APRIL)])
    late = END - timedelta(seconds=1)
    stamp = f"{late.timestamp() * 1000:.0f}-0"
    record = a_line(user_id, at=late, credits_charged=4).strip()
    await backend.redis.xadd(backend.meter.keys(user_id).journal, {RECORD_FIELD: record}, id=stamp)
    due = END + timedelta(days=1, seconds=1)
    assert await _closer(backend, due).run_once() == 0  # the call of its last second is in the journal only
    assert await UsageWriter(backend.database, backend.journal).run_once()
    assert await _closer(backend, END + timedelta(hours=23)).run_once() == 0
    assert sum(await asyncio.gather(*(_closer(backend, due).run_once() for _ in range(3)))) == 1
    assert await _closer(backend, due).run_once() == 0
    async with backend.database.read() as connection:
        (row,) = await months.get(connection, Report.OUTCOMES, month=APRIL, value=None)
        assert (row.requests, row.credits_charged) == (2, 5)


async def test_months_are_closed_in_their_order_until_none_is_due(backend: Backend) -> None:
    user_id = await backend.a_user(credits_given=0)
    async with backend.database.transaction() as connection:
        await ingest(connection, [a_line(user_id, at=IN_APRIL)])
    closer = _closer(backend, datetime(2026, 8, 15, tzinfo=UTC))
    while await closer.run_once():
        pass
    async with backend.database.read() as connection:
        closed = (await connection.scalars(text("SELECT month FROM report_months ORDER BY closed_at"))).all()
    assert closed == [APRIL, MAY, date(2026, 6, 1), date(2026, 7, 1)]
