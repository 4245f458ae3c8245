"""Concurrent workers that run late apply each period and each expiry once."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway import clock as clocks
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.meter.journal import Journal
from gateway.metrics import QUARANTINED
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.renewals import RenewalWorker
from tests.ledger.make import NOON, a_user
from tests.workers.conftest import Backend

GRACE = timedelta(days=3)
ACCOUNTS = 12


@pytest.fixture
def ledger(backend: Backend) -> Database:
    return backend.database


@pytest.fixture
def journal(backend: Backend) -> Journal:
    """An empty journal: PostgreSQL has all usage."""
    return backend.journal


async def _subscribe(ledger: Database, *, rolls_over: bool = True) -> list[UUID]:
    terms = PlanTerms(name=uuid4().hex, price=Decimal(0), credits_per_period=10, credits_rollover=rolls_over)
    begun = []
    async with ledger.transaction() as connection:
        plan = await plans.create(connection, terms)
        for _ in range(ACCOUNTS):
            user = await a_user(connection)
            begun.append(await lifecycle.start(connection, user.id, plan_id=plan.id, now=NOON))
    return [each.user_id for each in begun]


async def _balances(ledger: Database, user_ids: list[UUID]) -> list[int]:
    async with ledger.read() as connection:
        found = [await grants.get_balance(connection, user_id) for user_id in user_ids]
    return [each.current_credits for each in found if each is not None]


async def _work(*workers: RenewalWorker | CreditExpiryWorker) -> None:
    while any(await asyncio.gather(*(worker.run_once() for worker in workers))):
        pass


async def test_concurrent_renewal_workers_grant_each_period_once(ledger: Database, journal: Journal) -> None:
    user_ids = await _subscribe(ledger)
    late = NOON + timedelta(days=62)
    await _work(*(RenewalWorker(ledger, journal, grace=GRACE, now=lambda: late) for _ in range(4)))
    assert await _balances(ledger, user_ids) == [30] * ACCOUNTS
    async with ledger.read() as connection:
        granted = "SELECT count(*), count(DISTINCT (subscription_id, period_start)) FROM credit_grants"
        assert tuple((await connection.execute(text(granted))).one()) == (3 * ACCOUNTS, 3 * ACCOUNTS)


async def test_concurrent_expiry_workers_expire_each_grant_once(ledger: Database, journal: Journal) -> None:
    user_ids = await _subscribe(ledger, rolls_over=False)
    late = NOON + timedelta(days=62)
    await _work(*(CreditExpiryWorker(ledger, journal, grace=GRACE, now=lambda: late) for _ in range(4)))
    assert await _balances(ledger, user_ids) == [0] * ACCOUNTS
    async with ledger.read() as connection:
        expired = "SELECT count(*), sum(amount) FROM credit_ledger WHERE kind = 'expiry'"
        assert tuple((await connection.execute(text(expired))).one()) == (ACCOUNTS, -10 * ACCOUNTS)


async def test_host_whose_clock_is_ahead_ends_nothing(
    ledger: Database, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = clocks.now()
    async with ledger.transaction() as connection:
        user = await a_user(connection)
        await grants.grant(
            connection,
            user.id,
            amount=500,
            source="purchase",
            reason="a pack",
            actor="test",
            expires_at=present + timedelta(minutes=30),
        )
    monkeypatch.setattr("gateway.clock.now", lambda: present + timedelta(hours=1))
    await _work(CreditExpiryWorker(ledger, journal, grace=GRACE), RenewalWorker(ledger, journal, grace=GRACE))
    assert await _balances(ledger, [user.id]) == [500]


async def test_locked_account_is_skipped_until_the_next_run(ledger: Database, journal: Journal) -> None:
    user_ids = await _subscribe(ledger)
    late = NOON + timedelta(days=31)
    mover = RenewalWorker(ledger, journal, grace=GRACE, now=lambda: late)
    async with ledger.transaction() as busy:
        await subscriptions.get_for_update(busy, await _subscription_of(ledger, user_ids[0]))
        assert await mover.run_once() == ACCOUNTS - 1
    assert await mover.run_once() == 1
    assert await mover.run_once() == 0


async def test_failing_subscription_is_quarantined_and_retried(
    ledger: Database, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.workers.billing.renewals.BATCH_ACCOUNTS", 1)  # it would be all of each batch
    user_ids = await _subscribe(ledger)
    clock = [NOON + timedelta(days=31)]
    mover = RenewalWorker(ledger, journal, grace=GRACE, now=lambda: clock[0])
    first = "UPDATE subscriptions SET current_period_end = current_period_end - interval '1 h' WHERE id = :id"
    poison = "UPDATE user_credits SET current_credits = :credits WHERE user_id = :id"
    it = {"id": user_ids[0]}
    async with ledger.transaction() as connection:
        await connection.execute(text(first), {"id": await _subscription_of(ledger, user_ids[0])})
        await connection.execute(text(poison), {**it, "credits": 2**63 - 1})  # its next credits are beyond the column
    assert [await mover.run_once() for _ in range(ACCOUNTS)] == [0] + [1] * (ACCOUNTS - 1)
    assert QUARANTINED.labels("subscriptions")._value.get() == 1
    assert await mover.run_once() == 0
    async with ledger.transaction() as connection:
        await connection.execute(text(poison), {**it, "credits": 10})
    assert await mover.run_once() == 0  # not yet
    clock[0] += timedelta(minutes=1)
    assert await mover.run_once() == 1
    assert QUARANTINED.labels("subscriptions")._value.get() == 0


async def test_nothing_is_applied_before_its_time(ledger: Database, journal: Journal) -> None:
    await _subscribe(ledger)
    for now in (NOON, NOON + timedelta(days=30)):
        assert await _nothing_at(ledger, journal, now)


async def _nothing_at(ledger: Database, journal: Journal, now: datetime) -> bool:
    mover, keeper = (
        RenewalWorker(ledger, journal, grace=GRACE, now=lambda: now),
        CreditExpiryWorker(ledger, journal, grace=GRACE, now=lambda: now),
    )
    return (await mover.run_once(), await keeper.run_once()) == (0, 0)


async def _subscription_of(ledger: Database, user_id: UUID) -> UUID:
    async with ledger.read() as connection:
        found = await subscriptions.get_current(connection, user_id)
    assert found is not None
    return found.id
