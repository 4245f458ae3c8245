"""A year of accounts in some minutes: at each step all books agree, with each other and with a second bookkeeping.

Customers subscribe, try, use, buy, change, cancel, pause and move; a payment provider renews, fails and repeats itself;
workers run late, once for weeks. Ledger, balance row, grants and Redis must agree, and so must what a plain model of
the rules comes to, whose calendar is walked day by day: so nothing is granted twice, and no credit is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from sqlalchemy import text

from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import Verdict
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.renewals import RenewalWorker
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.reconciliation import Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.simulation.bookkeeping import GRACE, Account
from tests.guarantees.simulation.customer_year import OFFERS, ZONES, Life, act, provide, provider_changes
from tests.support.sampling import scaled, seeded_random
from tests.workers.conftest import UNLIMITED, Backend, a_prefix, a_suffix, backend  # noqa: F401 - the fixture of both stores

ACCOUNTS = scaled(suite=8, full=1_000)
DAYS_PER_STEP = scaled(suite=7, full=2)
ACTIVE_A_STEP = scaled(suite=40, full=12)  # percent of the accounts
BEGINS = datetime(2026, 1, 29, 22, 30, tzinfo=UTC)
YEAR = timedelta(days=366)
AT_ONCE = 4
OVER = ("expired", "canceled")


async def test_year_of_accounts_balances_at_every_step(backend: Backend) -> None:  # noqa: F811 - the fixture
    random, started = seeded_random("a year of accounts"), time.monotonic()
    lives = await _lives(backend, random)
    now, asleep_until, steps = BEGINS, BEGINS, 0
    while now < BEGINS + YEAR:
        now += timedelta(days=DAYS_PER_STEP * random.uniform(0.5, 1.5))
        steps += 1
        if now >= asleep_until:
            await _work(backend, lives, now)
            if random.random() < 0.05:
                asleep_until = now + timedelta(days=random.uniform(10, 45))
        await _live(backend, lives, now, random=random)
        await _settle(backend, lives)
        await _compare(backend, lives)
    await _work(backend, lives, now)
    await _settle(backend, lives)
    await _compare(backend, lives)
    granted = await _granted(backend)
    spent = sum(life.account.used for life in lives)
    measured.append(
        f"a year of {len(lives)} accounts: {steps} steps, {granted} periods granted, {spent} credits spent,"
        f" every book equal at each step, {time.monotonic() - started:.0f} s"
    )
    assert granted > len(lives)
    assert spent > len(lives)


async def _lives(backend: Backend, random: Random) -> list[Life]:  # noqa: F811 - the fixture
    async with backend.database.transaction() as connection:
        for offer in OFFERS:
            word, count = offer.interval
            terms = PlanTerms(
                name=offer.id,
                price=Decimal(offer.price),
                pricing_model="per_seat" if offer.per_seat else "flat",
                billing_interval=word,  # type: ignore[arg-type] # one of them
                billing_interval_count=count,
                credits_per_period=offer.credits,
                credits_rollover=offer.rolls_over,
            )
            await plans.create(connection, terms, plan_id=offer.id)
    lives = []
    for number in range(ACCOUNTS):
        zone = random.choice(ZONES)
        async with backend.database.transaction() as connection:
            user = await users.create(connection, f"{number}@example.com", time_zone=zone)
        luck = Random(f"{random.random()} {number}")  # noqa: S311 - to be replayed
        lives.append(Life(Account(user.id, ZoneInfo(zone)), luck))
        await backend.load(user.id)
    return lives


async def _work(backend: Backend, lives: Sequence[Life], now: datetime) -> None:  # noqa: F811 - the fixture
    """Runs the workers until they have caught up, two of a kind at once."""
    movers = [RenewalWorker(backend.database, backend.journal, grace=GRACE, now=lambda: now) for _ in range(2)]
    keepers = [CreditExpiryWorker(backend.database, backend.journal, grace=GRACE, now=lambda: now) for _ in range(2)]
    while any(await asyncio.gather(*(mover.run_once() for mover in movers))):
        pass
    while any(await asyncio.gather(*(keeper.run_once() for keeper in keepers))):
        pass
    for life in lives:
        life.account.turn(now)
        life.account.settle(now)


async def _live(backend: Backend, lives: Sequence[Life], now: datetime, *, random: Random) -> None:  # noqa: F811 - as above
    """Some accounts act, all providers look at their clocks, and calls are made."""
    todo = iter(lives)
    chosen = {life.account.id for life in lives if random.random() * 100 < ACTIVE_A_STEP}

    async def walk() -> None:
        for life in todo:
            told = provider_changes(life, now)
            if told or life.account.id in chosen:
                async with backend.database.transaction() as connection:
                    await provide(connection, life, told, now=now)
                    if life.account.id in chosen:
                        await act(connection, life, now)
            if life.random.random() < 0.3:
                await _call(backend, life)

    await asyncio.gather(*(walk() for _ in range(AT_ONCE)))


async def _call(backend: Backend, life: Life) -> None:  # noqa: F811 - the fixture
    """A call of some credits; it is admitted on the balance that Redis knows."""
    keys, request_id, amount = backend.meter.keys(life.account.id), str(uuid4()), life.random.randint(1, 40)
    versions = await backend.meter.versions(keys)
    admission = await backend.meter.admit(
        keys,
        request_id=request_id,
        account_version=versions.account,
        catalogue_version=max(versions.catalogue, 1),
        amount=amount,
        required=amount,
        limits=UNLIMITED,
        prefix=a_prefix(life.account.id, request_id),
    )
    if admission.verdict is Verdict.ADMITTED:
        await backend.meter.settle(Settlement(keys, request_id, amount, a_suffix(amount)))
        life.spent += amount
    else:
        assert admission.verdict is Verdict.INSUFFICIENT_CREDITS


async def _settle(backend: Backend, lives: Sequence[Life]) -> None:  # noqa: F811 - the fixture
    """Moves changes to the other store, in both directions."""
    await OutboxPublisher(backend.database, backend.meter).publish_all()
    while await UsageWriter(backend.database, backend.journal).run_once():
        pass
    for life in lives:
        if life.spent:
            life.account.spend(life.spent)
            life.spent = 0


_BOOKS = text("""
    SELECT b.user_id, b.current_credits, b.total_credits_used, b.total_credits_purchased, b.total_credits_expired,
           b.credits_used_this_period, b.subscription_id, b.period_start, b.period_end
      FROM user_credits b
""")
_GRANTED = text("""
    SELECT count(*), count(DISTINCT (subscription_id, period_start)) FROM credit_grants WHERE period_start IS NOT NULL
""")
_CONTRACTS = text("SELECT id, status, plan_id, quantity, current_period_start, current_period_end FROM subscriptions")


async def _compare(backend: Backend, lives: Sequence[Life]) -> None:  # noqa: F811 - the fixture
    ids = [life.account.id for life in lives]
    checked = await Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter)).check(ids)
    assert checked.findings == ()
    assert checked.loaded == len(ids)
    async with backend.database.read() as connection:
        books = {row.user_id: tuple(row)[1:] for row in await connection.execute(_BOOKS)}
        rows = await connection.execute(_CONTRACTS)
        contracts: dict[UUID, tuple[object, ...]] = {row.id: tuple(row)[1:] for row in rows}
    for life in lives:
        account = life.account
        totals = (account.balance, account.used, account.purchased, account.expired, account.used_in_period)
        assert books[account.id] == (*totals, *(account.period or (None, None, None)))
        for each in account.contracts:
            expected = (each.status, each.offer.id, each.quantity, each.start, each.end)
            if each.status != "incomplete":
                assert contracts[each.id][:3] == expected[:3]
                assert each.status in OVER or contracts[each.id] == expected


async def _granted(backend: Backend) -> int:  # noqa: F811 - the fixture
    """The number of granted periods; asserts that each was granted once."""
    async with backend.database.read() as connection:
        granted, distinct = (await connection.execute(_GRANTED)).one()
    assert granted == distinct
    return int(granted)
