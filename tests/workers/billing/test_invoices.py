"""Invoice workers that are killed at any point, alone and several at once: each period is invoiced once, wholly."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle, renewals
from gateway.meter.journal import Journal
from gateway.metrics import QUARANTINED
from gateway.workers.billing.invoices import InvoiceWorker
from policies.billing.issuing import Issuer
from tests.ledger.invoicing.test_issued_invoices import a_plan, used
from tests.ledger.make import a_user
from tests.support.sampling import scaled, seeded_random
from tests.workers.conftest import Backend

JUNE = datetime(2026, 6, 1, tzinfo=UTC)
END = datetime(2027, 6, 1, tzinfo=UTC)
GRACE = timedelta(days=3)
ACCOUNTS = 4
KILLS = scaled(suite=25, full=400)


def a_worker(
    database: Database, journal: Journal, now: datetime, close_after: timedelta = timedelta()
) -> InvoiceWorker:
    return InvoiceWorker(database, journal, issuer=Issuer(), close_after=close_after, now=lambda: now)


async def _subscribe(database: Database, price: str, model: str = "flat") -> list[UUID]:
    async with database.transaction() as connection:
        plan_id = await a_plan(connection, price, model)
        users = [await a_user(connection) for _ in range(ACCOUNTS)]
        return [(await lifecycle.start(connection, user.id, plan_id=plan_id, now=JUNE)).id for user in users]


async def _advance(database: Database, subscription_ids: list[UUID], now: datetime) -> None:
    async with database.transaction() as connection:
        for each in subscription_ids:
            await renewals.advance(connection, each, now=now, grace=GRACE)


async def _rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    async with database.read() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


async def _run_and_kill(backend: Backend, *, workers: int, steps: int, ends_connections: bool) -> None:
    """Kills workers after some turns of the loop: themselves, or the connections that they work on."""
    url = backend.database._engine.url.render_as_string(hide_password=False)
    databases = [Database(url) for _ in range(workers)]
    tasks = [asyncio.create_task(a_worker(each, backend.journal, END).run_once()) for each in databases]
    for _ in range(steps):
        await asyncio.sleep(0)
    if ends_connections:
        async with backend.database.read() as connection:
            await connection.execute(text(_END_OTHERS))
    else:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for database in databases:
        await database.close()


async def test_workers_killed_at_any_point_invoice_each_period_and_all_usage_once(backend: Backend) -> None:
    random = seeded_random("kill invoice workers")
    flat = await _subscribe(backend.database, "9.99")
    metered = await _subscribe(backend.database, "0.02", "usage")
    credits = 0
    async with backend.database.transaction() as connection:
        for each in metered:
            for _ in range(30):
                at, charge = JUNE + timedelta(hours=random.randrange(365 * 24 - 1)), random.randrange(1, 500)
                await used(connection, each, at=at, credits_charged=charge)
                credits += charge
    await _advance(backend.database, [*flat, *metered], END)
    for number in range(KILLS):
        steps, workers = random.randrange(1, 600), random.choice((1, 2))
        await _run_and_kill(backend, workers=workers, steps=steps, ends_connections=number % 5 == 0)
    last = a_worker(backend.database, backend.journal, END)
    while await last.run_once():
        pass
    by_model = await _rows(
        backend.database,
        """
        SELECT p.pricing_model, count(*), count(DISTINCT (i.subscription_id, i.period_start)), sum(i.total)
          FROM invoices i JOIN subscription_plans p ON p.id = i.plan_id GROUP BY 1 ORDER BY 1
        """,
    )
    (flat_row, usage_row) = by_model
    assert flat_row == ("flat", 12 * ACCOUNTS, 12 * ACCOUNTS, Decimal("9.99") * 12 * ACCOUNTS)
    assert usage_row[1] == usage_row[2]
    assert usage_row[3] == credits * Decimal("0.02")
    numbers = [row[0] for row in await _rows(backend.database, "SELECT number FROM invoices ORDER BY number")]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_period_waits_for_calls_under_way_at_its_end(backend: Backend) -> None:
    mine = await _subscribe(backend.database, "9.99")
    end = JUNE + timedelta(days=30)
    await _advance(backend.database, mine, end)
    early = a_worker(backend.database, backend.journal, end + timedelta(minutes=59), timedelta(hours=1))
    assert await early.run_once() == 0
    late = a_worker(backend.database, backend.journal, end + timedelta(hours=1), timedelta(hours=1))
    assert await late.run_once() == ACCOUNTS


async def test_period_without_a_price_blocks_no_other(backend: Backend) -> None:
    mine = await _subscribe(backend.database, "9.99")
    await _advance(backend.database, mine, JUNE + timedelta(days=30))
    async with backend.database.transaction() as connection:
        broken = """UPDATE billing_spans SET pricing = pricing || '{"model": "tiered"}' WHERE subscription_id = :id"""
        await connection.execute(text(broken), {"id": mine[0]})
    worker = a_worker(backend.database, backend.journal, JUNE + timedelta(days=31))
    assert await worker.run_once() == ACCOUNTS - 1
    assert QUARANTINED.labels("invoices")._value.get() == 1


async def test_paused_and_ended_subscriptions_are_invoiced_to_the_end(backend: Backend) -> None:
    paused, ended, *_ = await _subscribe(backend.database, "0.02", "usage")
    async with backend.database.transaction() as connection:
        await used(connection, paused, at=JUNE + timedelta(days=1), credits_charged=100)
        await lifecycle.pause(connection, paused)
        await lifecycle.cancel(connection, ended, now=JUNE + timedelta(days=2), at_period_end=False)
    now = JUNE + timedelta(days=31)
    worker = a_worker(backend.database, backend.journal, now)
    assert await worker.run_once() == 2
    async with backend.database.transaction() as connection:
        await used(connection, ended, at=JUNE + timedelta(days=1), credits_charged=50)
    assert await a_worker(backend.database, backend.journal, now).run_once() == 1
    assert await a_worker(backend.database, backend.journal, now).run_once() == 0
    totals = await _rows(backend.database, "SELECT total FROM invoices ORDER BY number")
    assert totals == [(Decimal("2.00"),), (Decimal("1.00"),)]


async def test_usage_of_a_year_is_invoiced_although_its_records_are_deleted(backend: Backend) -> None:
    async with backend.database.transaction() as connection:
        plan_id = await a_plan(connection, "0.02", "usage", billing_interval="year")
        user = await a_user(connection)
        mine = (await lifecycle.start(connection, user.id, plan_id=plan_id, now=JUNE)).id
    for month in range(12):
        now = JUNE + timedelta(days=33 * month)
        async with backend.database.transaction() as connection:
            await used(connection, mine, at=now, credits_charged=100)
        await a_worker(backend.database, backend.journal, now + timedelta(days=1)).run_once()
        async with backend.database.transaction() as connection:
            old = "DELETE FROM usage_tracking WHERE created_at < :before"
            await connection.execute(text(old), {"before": now - timedelta(days=60)})
    await _advance(backend.database, [mine], END)
    assert await a_worker(backend.database, backend.journal, END + timedelta(days=1)).run_once() == 1
    assert await _rows(backend.database, "SELECT total FROM invoices") == [(Decimal("24.00"),)]


async def test_usage_at_a_kept_price_is_counted_after_its_plan_has_a_flat_one(backend: Backend) -> None:
    async with backend.database.transaction() as connection:
        plan_id = await a_plan(connection, "0.02", "usage", billing_interval="year")
        user = await a_user(connection)
        mine = (await lifecycle.start(connection, user.id, plan_id=plan_id, now=JUNE)).id
        flat = PlanTerms(name="Flat", price=Decimal("5.00"), billing_interval="year")
        await plans.change(connection, plan_id, flat)
        await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=100)
    await a_worker(backend.database, backend.journal, JUNE + timedelta(days=40)).run_once()
    async with backend.database.transaction() as connection:
        await connection.execute(text("DELETE FROM usage_tracking"))
    await _advance(backend.database, [mine], END)
    assert await a_worker(backend.database, backend.journal, END + timedelta(days=1)).run_once() == 1
    assert await _rows(backend.database, "SELECT total FROM invoices") == [(Decimal("2.00"),)]
