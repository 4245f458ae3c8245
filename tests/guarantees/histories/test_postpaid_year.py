"""A year of postpaid usage: what invoices and meters ask for is what was used, whatever dies when.

Customers call below zero, also over the ends of their periods, change plans and leave. Every worker dies at a statement
drawn at random, again and again, and so do the changes themselves; a provider's meter loses its responses.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import event, text

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db.session import Database
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.payments import provider_customers, provider_subscriptions
from gateway.ledger.subscriptions import lifecycle
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_existing
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import Verdict
from gateway.payments.provider import ProviderUnavailable
from gateway.payments.stripe.adapter import Stripe
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.invoices import InvoiceWorker
from gateway.workers.billing.overage import OverageWorker
from gateway.workers.billing.renewals import RenewalWorker
from gateway.workers.billing.usage_reports import UsageReportSender
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.reconciliation import Reconciler
from gateway.workers.usage.usage_writer import UsageWriter
from policies.access.limits import Limits
from policies.billing.invoicing import lines_of
from policies.billing.issuing import Issuer
from policies.model import SubscriptionStatus
from policies.usage.records import prefix_of
from tests.guarantees.chaos.conftest import measured
from tests.support.sampling import scaled, seeded_random
from tests.workers.conftest import Backend, a_suffix, backend  # noqa: F401 - the fixture of both stores

BEGINS = datetime(2026, 1, 29, 22, 30, tzinfo=UTC)
YEAR, MONTH, GRACE = timedelta(days=366), timedelta(days=30), timedelta(days=3)
ACCOUNTS_OF_A_PLAN = scaled(suite=1, full=8)
DAYS_PER_STEP = scaled(suite=30, full=2)
CAP = 10**6
POSTPAID: dict[str, Any] = {"overage_credits": CAP, "overage_price": Decimal("0.02")}
TIERS = (Tier(up_to=300, unit_price=Decimal("0.01")), Tier(up_to=None, unit_price=Decimal("0.004")))
OFFERS: dict[str, dict[str, Any]] = {
    "allowance": {"price": Decimal(10), "credits_per_period": 100, **POSTPAID},
    "bare": {"price": Decimal(5), **POSTPAID},
    "payg": {"price": Decimal("0.01"), "pricing_model": "usage", "overage_credits": CAP},
    "graduated": {"price": Decimal(0), "pricing_model": "usage", "tiers": TIERS, "overage_credits": CAP},
    "volume": {
        "price": Decimal(0),
        "pricing_model": "usage",
        "tiers": TIERS,
        "overage_credits": CAP,
        "tiers_mode": "volume",
    },
    "weekly": {"price": Decimal(1), "billing_interval": "week", "credits_per_period": 20, **POSTPAID},
    "metered": {"price": Decimal(10), "credits_per_period": 50, **POSTPAID, "overage_stripe_price_id": "price_meter"},
}
# Changes of plan within a period, each other way round too.
NEIGHBOURS = {"allowance": "bare", "bare": "allowance"}


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def dying(database: Database, *, after: int) -> Iterator[None]:
    """Nothing gets further than so many statements."""
    left = after

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", count)


class Meter:
    """A provider's meter, which counts an identifier once, and whose response may be lost either way."""

    name = "stripe"
    traits = Stripe.traits

    def __init__(self, random: Random) -> None:
        self._random = random
        self.counted: dict[str, int] = {}
        self.is_reliable = False

    async def report_usage(self, *, identifier: str, value: int, **_: object) -> None:
        if not self.is_reliable and self._random.random() < 0.3:
            raise ProviderUnavailable("the request is lost")
        self.counted.setdefault(identifier, value)
        if not self.is_reliable and self._random.random() < 0.3:
            raise ProviderUnavailable("the response is lost")


@dataclass
class Customer:
    user_id: UUID
    subscription: StoredSubscription
    used: int = 0
    under_way: list[tuple[str, int]] = field(default_factory=list)

    @property
    def is_at_provider(self) -> bool:
        return self.subscription.provider == "stripe"


@dataclass
class World:
    backend: Backend
    random: Random
    meter: Meter
    customers: list[Customer] = field(default_factory=list)
    now: datetime = BEGINS
    deaths: int = 0

    async def until_done(self, work: Callable[[], Awaitable[object]], *, tries: int = 6) -> None:
        """Works, dies and begins again; the last try lives."""
        for _ in range(tries):
            try:
                with dying(self.backend.database, after=int(self.random.expovariate(1 / 25))):
                    await work()
                break
            except (Killed, ProviderUnavailable):
                self.deaths += 1
        else:
            with suppress(ProviderUnavailable):
                await work()


async def test_invoices_and_meters_of_a_year_ask_for_what_was_used(backend: Backend) -> None:  # noqa: F811 - the fixture
    random, started = seeded_random("a postpaid year"), time.monotonic()
    world = World(backend, random, Meter(random))
    await _open_accounts(world)
    while world.now < BEGINS + YEAR:
        world.now += timedelta(days=DAYS_PER_STEP * random.uniform(0.5, 1.5))
        for customer in world.customers:
            await _live(world, customer)
        if random.random() < 0.8:
            await _work(world)
    for customer in world.customers:
        await _end_calls(world, customer)
        if random.random() < 0.5 and not customer.is_at_provider:
            await world.until_done(lambda each=customer: _cancel(world, each))  # type: ignore[misc] # bound at once
    world.now += MONTH  # what ended last is recorded while it still counts as late usage
    await _work(world)
    world.now += MONTH * 13  # longer than any period: all of the year are closed
    for _ in range(2):
        await _work(world)
        for customer in world.customers:
            if customer.is_at_provider:
                await world.until_done(lambda each=customer: _renew_at_provider(world, each))  # type: ignore[misc] # as above
        world.now += MONTH
    await _assert_asked_for(world)
    used = sum(customer.used for customer in world.customers)
    measured.append(
        f"a year of postpaid usage: {len(world.customers)} accounts, {used} credits, {world.deaths} deaths of workers,"
        f" invoices and meters ask for all of it once, {time.monotonic() - started:.0f} s"
    )
    assert world.deaths > 50


async def _open_accounts(world: World) -> None:
    async with world.backend.database.transaction() as connection:
        for name, terms in OFFERS.items():
            await plans.create(connection, PlanTerms(name=name, **terms), plan_id=name)
    for name in [name for name in OFFERS for _ in range(ACCOUNTS_OF_A_PLAN)]:
        user_id = await world.backend.a_user(credits_given=0)
        async with world.backend.database.transaction() as connection:
            if name == "metered":
                waiting = await lifecycle.await_payment(
                    connection, user_id, plan_id=name, provider="stripe", now=BEGINS
                )
                await provider_customers.record(
                    connection, user_id, provider="stripe", provider_customer_id=f"cus_{user_id}"
                )
                begun = await _sync(world, connection, waiting, start=BEGINS)
            else:
                begun = await lifecycle.start(connection, user_id, plan_id=name, now=BEGINS)
        world.customers.append(Customer(user_id, begun))
        await world.backend.load(user_id)


async def _sync(world: World, connection: Any, of: StoredSubscription, *, start: datetime) -> StoredSubscription:
    return await provider_subscriptions.sync_from_provider(
        connection,
        of.id,
        status=SubscriptionStatus.ACTIVE,
        period_start=start,
        period_end=start + MONTH,
        cancel_at_period_end=False,
        quantity=1,
        now=max(world.now, start),
        actor="test",
        provider_subscription_id=f"sub_{of.id}",
    )


async def _live(world: World, customer: Customer) -> None:
    """Calls, of which some go on; now and then another plan, or a provider's renewal."""
    random = world.random
    if random.random() < 0.6:
        await _end_calls(world, customer)
    for _ in range(random.randint(0, 3)):
        await _call(world, customer)
    if customer.is_at_provider:
        await world.until_done(lambda: _renew_at_provider(world, customer))
    elif customer.subscription.plan_id in NEIGHBOURS and random.random() < 0.1:
        await world.until_done(lambda: _change_plan(world, customer))


async def _call(world: World, customer: Customer) -> None:
    """Admitted as of now in the books; it is settled at once or in a later step."""
    meter, request_id, amount = world.backend.meter, str(uuid4()), world.random.randint(1, 90)
    keys = meter.keys(customer.user_id)
    known = {
        "request_id": request_id,
        "created_at": int(world.now.timestamp() * 1_000_000),
        "user_id": customer.user_id,
        "subscription_id": customer.subscription.id,
        "plan_id": customer.subscription.plan_id,
        "endpoint": "analyze",
        "method": "POST",
        "path": "/v1/analyze",
        "usage_type": "ai_generation",
        "product_count": 1,
    }
    verdict = None
    while verdict in (None, Verdict.NOT_LOADED):
        await world.backend.load(customer.user_id)  # a worker that died may have unloaded it
        versions = await meter.versions(keys)
        admission = await meter.admit(
            keys,
            request_id=request_id,
            account_version=versions.account,
            catalogue_version=max(versions.catalogue, 1),
            amount=amount,
            required=amount,
            limits=Limits((None, None, None), None, overage=CAP),
            prefix=prefix_of(known),
        )
        verdict = admission.verdict
    assert verdict is Verdict.ADMITTED
    customer.under_way.append((request_id, amount))
    if world.random.random() < 0.7:
        await _end_calls(world, customer)


async def _end_calls(world: World, customer: Customer) -> None:
    meter = world.backend.meter
    for request_id, amount in customer.under_way:
        await meter.settle(Settlement(meter.keys(customer.user_id), request_id, amount, a_suffix(amount)))
        customer.used += amount
    customer.under_way.clear()


async def _renew_at_provider(world: World, customer: Customer) -> None:
    while customer.subscription.current_period_end <= world.now:
        async with world.backend.database.transaction() as connection:
            start = customer.subscription.current_period_end
            renewed = await _sync(world, connection, customer.subscription, start=start)
        customer.subscription = renewed


async def _change_plan(world: World, customer: Customer) -> None:
    async with world.backend.database.transaction() as connection:
        present = await get_existing(connection, customer.subscription.id)
        if present.current_period_end <= world.now:
            return  # its renewal comes first
        plan_id = NEIGHBOURS[present.plan_id]
        changed = await plan_changes.change(connection, present.id, now=world.now, actor="test", plan_id=plan_id)
    customer.subscription = changed.subscription


async def _cancel(world: World, customer: Customer) -> None:
    async with world.backend.database.transaction() as connection:
        present = await get_existing(connection, customer.subscription.id)
        if present.status is SubscriptionStatus.ACTIVE:
            await lifecycle.cancel(connection, present.id, now=world.now, at_period_end=False)


async def _work(world: World) -> None:
    """Every worker until it has caught up, two of a kind at once, however often they die."""
    database, journal, now = world.backend.database, world.backend.journal, world.now
    issuer = Issuer()

    async def emptied(*workers: Any) -> None:
        """One that dies ends when the others do: an orphan would hold rows that its successors skip."""
        done: list[Any] = [True]
        while any(done):
            done = await asyncio.gather(*(worker.run_once() for worker in workers), return_exceptions=True)
            for fault in filter(lambda each: isinstance(each, BaseException), done):
                raise fault

    # A new worker each time: one that died knows nothing.
    for make in (
        lambda: UsageWriter(database, journal),
        lambda: RenewalWorker(database, journal, grace=GRACE, now=lambda: now),
        lambda: CreditExpiryWorker(database, journal, grace=GRACE, now=lambda: now),
        lambda: OverageWorker(database, now=lambda: now),
        lambda: InvoiceWorker(database, journal, issuer=issuer, close_after=timedelta(hours=1), now=lambda: now),
        lambda: UsageReportSender(database, world.meter),
    ):
        await world.until_done(lambda make=make: emptied(make(), make()))  # type: ignore[misc] # bound at once
    await world.until_done(OutboxPublisher(database, world.backend.meter).publish_all)
    await OutboxPublisher(database, world.backend.meter).publish_all()


async def _assert_asked_for(world: World) -> None:
    backend = world.backend  # noqa: F811 - not the fixture
    world.meter.is_reliable = True
    await _work(world)
    checker = Reconciler(backend.database, AccountSnapshotReader(backend.redis_client, backend.meter))
    assert (await checker.check([customer.user_id for customer in world.customers])).findings == ()
    async with backend.database.read() as connection:
        for customer in world.customers:
            await _assert_paid_by_credits_or_money(connection, customer)
        reports = await connection.execute(text("SELECT identifier, credits_used FROM usage_reports"))
        assert world.meter.counted == {row.identifier: row.credits_used for row in reports}
        await _assert_usage_plans(connection)
        await _assert_prices_asked_once(connection)


async def _assert_paid_by_credits_or_money(connection: Any, customer: Customer) -> None:
    """All that was used was taken from credits of the plan, or forgiven; and what was forgiven is asked for once."""
    row = (await connection.execute(_BOOKS, {"id": customer.user_id})).one()
    assert row.total_credits_used == customer.used
    assert row.current_credits >= 0
    assert customer.used == row.granted - row.expired - row.current_credits + row.forgiven
    is_priced = customer.subscription.plan_id not in ("payg", "graduated", "volume")
    assert row.asked == (row.forgiven if is_priced else 0)
    assert row.invoiced == (0 if customer.is_at_provider else row.asked)
    assert row.reported == (row.asked if customer.is_at_provider else 0)


async def _assert_usage_plans(connection: Any) -> None:
    """Each period of a plan priced by usage asks for the price of all its usage, in one piece or several."""
    asked: dict[tuple[str, datetime], Decimal] = defaultdict(Decimal)
    for row in await connection.execute(_USAGE_LINES):
        asked[row.plan_id, row.period_start] += row.amount
    found = (await connection.execute(_USAGE_SPANS)).all()
    assert found
    for plan_id in ("payg", "graduated", "volume"):
        plan = await plans.get(connection, plan_id)
        assert plan is not None
        expected = sum(
            sum((line.amount for line in lines_of(plan.terms.pricing, int(row.used), description="")), Decimal(0))
            for row in found
            if row.plan_id == plan_id
        )
        assert expected == sum(amount for (name, _), amount in asked.items() if name == plan_id)


async def _assert_prices_asked_once(connection: Any) -> None:
    """A closed period without changes of plan has one line of its price."""
    rows = (await connection.execute(_PRICES)).all()
    assert rows
    assert [row for row in rows if row.asked != row.periods] == []


_BOOKS = text("""
    SELECT c.total_credits_used, c.current_credits,
           (SELECT coalesce(sum(l.amount), 0) FROM credit_ledger l JOIN credit_grants g ON g.id = l.grant_id
             WHERE l.user_id = c.user_id AND g.source <> 'overage' AND l.kind IN ('grant', 'adjustment')) AS granted,
           (SELECT coalesce(-sum(amount), 0) FROM credit_ledger
             WHERE user_id = c.user_id AND kind = 'expiry') AS expired,
           (SELECT coalesce(sum(amount), 0) FROM credit_grants
             WHERE user_id = c.user_id AND source = 'overage') AS forgiven,
           (SELECT coalesce(sum(credits), 0) FROM overages WHERE user_id = c.user_id) AS asked,
           (SELECT coalesce(sum(CAST(line ->> 'quantity' AS bigint)), 0)
              FROM invoices i, jsonb_array_elements(i.lines) line
             WHERE i.user_id = c.user_id AND i.status <> 'draft' AND line ->> 'kind' = 'overage') AS invoiced,
           (SELECT coalesce(sum(r.credits_used), 0)
              FROM usage_reports r JOIN subscriptions s ON s.id = r.subscription_id
             WHERE s.user_id = c.user_id AND r.reported_at IS NOT NULL AND r.error_message IS NULL) AS reported
      FROM user_credits c WHERE c.user_id = :id
""")
_USAGE_LINES = text("""
    SELECT i.plan_id, CAST(line ->> 'period_start' AS timestamptz) AS period_start,
           CAST(line ->> 'amount' AS numeric) AS amount
      FROM invoices i, jsonb_array_elements(i.lines) line
     WHERE i.status <> 'draft' AND line ->> 'kind' = 'usage'
""")
_USAGE_SPANS = text("""
    SELECT b.plan_id, b.starts_at,
           (SELECT coalesce(sum(u.credits_charged), 0) FROM usage_tracking u
             WHERE u.subscription_id = b.subscription_id
               AND u.created_at >= b.starts_at AND u.created_at < b.ends_at) AS used
      FROM billing_spans b WHERE b.plan_id IN ('payg', 'graduated', 'volume')
""")
_PRICES = text("""
    SELECT s.id,
           (SELECT count(*) FROM billing_spans b
             WHERE b.subscription_id = s.id AND b.ends_period AND b.closed_at IS NOT NULL) AS periods,
           (SELECT count(*) FROM invoices i, jsonb_array_elements(i.lines) line
             WHERE i.subscription_id = s.id AND i.status <> 'draft' AND line ->> 'kind' = 'plan') AS asked
      FROM subscriptions s WHERE s.plan_id = 'weekly' AND s.provider = 'manual'
""")
