"""A year of accounts: each report of each month equals a second bookkeeping, to the cent, and a closed one stays so.

Customers begin, change, pause, fail to pay and leave; money comes, goes back, is disputed and is booked late; calls are
made, swept and settled late. The clock of the books is moved. The second bookkeeping walks the year day by day.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from random import Random
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.payments import payments
from gateway.ledger.reports import months
from gateway.ledger.reports.rows import Report
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.usage.ingestion import correct, ingest
from policies.billing.money import CreditValue
from policies.model import SubscriptionStatus
from tests.guarantees.chaos.conftest import measured
from tests.ledger.make import a_key, a_line, a_user
from tests.support.sampling import scaled, seeded_random

ACCOUNTS = scaled(suite=40, full=1_000)
EVENTS_A_YEAR = scaled(suite=8, full=24)  # of each account
VALUE = CreditValue("USD", Decimal(100))
CENT, NOTHING = Decimal("0.01"), Decimal(0)
MONTHS = [date(2031, month, 1) for month in range(1, 13)]


@dataclass
class Offer:
    """A plan; `months` is the length of its period."""

    id: str
    price: Decimal
    currency: str
    months: int
    per_seat: bool

    def monthly(self, quantity: int) -> Decimal:
        a_period = self.price * (quantity if self.per_seat else 1)
        return (a_period / self.months).quantize(CENT, ROUND_HALF_EVEN)


def _offers() -> list[Offer]:
    return [
        Offer("free", NOTHING, "USD", 1, False),
        Offer("pro", Decimal("29.99"), "USD", 1, False),
        Offer("year", Decimal("100.00"), "USD", 12, False),
        Offer("seats", Decimal("7.77"), "USD", 1, True),
        Offer("quarter", Decimal("50.00"), "EUR", 3, False),
    ]


@dataclass
class Person:
    id: UUID
    key: UUID
    subscription: UUID | None = None
    offer: Offer | None = None
    quantity: int = 1
    status: str = "canceled"


@dataclass
class Books:
    """The second bookkeeping: of each account what it pays at the end of each day, and sums of the rest."""

    pays: dict[UUID, dict[date, tuple[str, Decimal]]] = field(default_factory=lambda: defaultdict(dict))
    money: dict[tuple[date, str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    balances: list[tuple[datetime, UUID, int]] = field(default_factory=list)
    outcomes: Counter[tuple[date, str, str, str]] = field(default_factory=Counter)
    refusals: Counter[tuple[date, str]] = field(default_factory=Counter)
    of_user: Counter[tuple[date, UUID, str]] = field(default_factory=Counter)
    closed: list[date] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)

    def book(self, month: date, plan_id: str, provider: str, *, currency: str, kind: str, amount: Decimal) -> None:
        """Of a month that is closed, the money is the first open month's."""
        reported = max(month, _next(self.closed[-1])) if self.closed else month
        sums: Any = self.money[reported, plan_id, provider, currency]
        sums[kind] += amount
        sums["late"] += amount if reported != month else 0
        self.paid[currency] += amount  # type: ignore[assignment] # counts money

    def call(self, at: datetime, user_id: UUID, outcome: str, *, credits: int, endpoint: str, n: int = 1) -> None:
        month = at.date().replace(day=1)
        self.outcomes[month, endpoint, outcome, "requests"] += n
        self.outcomes[month, endpoint, outcome, "credits"] += n * credits
        self.of_user[month, user_id, "requests"] += n
        self.of_user[month, user_id, "credits"] += n * credits


def _next(month: date) -> date:
    return (month + timedelta(days=32)).replace(day=1)


def _start(month: date) -> datetime:
    return datetime(month.year, month.month, 1, tzinfo=UTC)


class Year:
    def __init__(self, connection: AsyncConnection, random: Random) -> None:
        self.connection = connection
        self.random = random
        self.books = Books()
        self.offers = _offers()
        self.people: list[Person] = []
        self.payments: list[tuple[payments.Payment, date]] = []
        self.late: list[tuple[Person, str, datetime]] = []
        self.now = _start(MONTHS[0])
        self.deeds = [
            (self.subscribe, 6),
            (self.change, 4),
            (self.end, 2),
            (self.pay, 5),
            (self.give_back, 3),
            (self.call, 5),
            (self.settle_late, 2),
            (self.grant, 2),
            (self.refuse, 1),
        ]

    async def prepare(self) -> None:
        for statement in _MOVE_CLOCK:
            await self.connection.execute(text(statement))
        await self._set_clock()
        for offer in self.offers:
            await plans.create(self.connection, _terms(offer), plan_id=offer.id)
        for _ in range(ACCOUNTS):
            user = await a_user(self.connection)
            self.people.append(Person(user.id, (await a_key(self.connection, user.id)).id))

    async def live(self, until: datetime) -> None:
        """Events in the order of time, up to the instant."""
        count = round(ACCOUNTS * EVENTS_A_YEAR * ((until - self.now) / timedelta(days=365)))
        instants = sorted(self.now + (until - self.now) * self.random.random() for _ in range(count))
        for self.now in instants:
            await self._set_clock()
            (deed,) = self.random.choices([each for each, _ in self.deeds], [weight for _, weight in self.deeds])
            await deed(self.random.choice(self.people))
        self.now = until
        await self._set_clock()

    async def raise_price(self) -> None:
        """Of a plan, for all of its subscribers."""
        offer = self.random.choice(self.offers[1:])
        offer.price += Decimal("3.33")
        await plans.change(self.connection, offer.id, _terms(offer), subscribers="migrate")
        for person in self.people:
            if person.offer is offer:
                self._note(person)

    async def subscribe(self, person: Person) -> None:
        if person.status != "canceled":
            return
        person.offer, person.quantity = self.random.choice(self.offers), self.random.randint(1, 4)
        person.status = self.random.choice(("active", "active", "trialing"))
        made = await subscriptions.create(
            self.connection,
            user_id=person.id,
            plan_id=person.offer.id,
            plan_version=1,
            quantity=person.quantity,
            status=person.status,
            current_period_start=self.now,
            current_period_end=self.now + timedelta(days=30),
            period_anchor=self.now,
        )
        person.subscription = made.id
        self._note(person)

    async def change(self, person: Person) -> None:
        """Another plan, other seats, a pause, a failed payment or the end of a trial or of either of them."""
        if person.subscription is None or person.status == "canceled":
            return
        if self.random.random() < 0.6:
            person.offer, person.quantity = self.random.choice(self.offers), self.random.randint(1, 4)
        else:
            person.status = self.random.choice(("active", "active", "past_due", "paused"))
        assert person.offer is not None
        await subscriptions.update(
            self.connection,
            person.subscription,
            plan_id=person.offer.id,
            quantity=person.quantity,
            status=SubscriptionStatus(person.status),
        )
        self._note(person)

    async def end(self, person: Person) -> None:
        if person.subscription is None or person.status == "canceled":
            return
        person.status = "canceled"
        await subscriptions.update(self.connection, person.subscription, status=SubscriptionStatus.CANCELED)
        self._note(person)

    async def pay(self, person: Person) -> None:
        """Money that came now or, where a provider tells it late, up to two months ago."""
        paid_at = self.now - timedelta(days=self.random.choice((0, 0, 0, 3, 60)))
        plan_id, provider = self.random.choice(("pro", "year")), self.random.choice(("stripe", "manual"))
        currency, amount = self.random.choice(("USD", "EUR")), Decimal(self.random.randint(1, 99_999)) * CENT
        status = self.random.choice(("completed", "completed", "failed", "pending"))
        shared = {"user_id": person.id, "plan_id": plan_id, "amount": amount, "currency": currency}
        values: dict[str, Any] = {**shared, "transaction_type": "subscription", "processed_at": paid_at}
        reference = str(uuid4())
        made = await payments.upsert(self.connection, provider, provider_payment_id=reference, **values, status=status)
        if status == "pending":
            made = await payments.upsert(
                self.connection, provider, provider_payment_id=reference, **values, status="completed"
            )
        if status != "failed":
            month = paid_at.date().replace(day=1)
            self.books.book(month, plan_id, provider, currency=currency, kind="charged", amount=amount)
            self.payments.append((made, month))

    async def give_back(self, person: Person) -> None:  # noqa: ARG002 - the shape of deeds
        """A refund, or a dispute that is decided some time."""
        if not self.payments:
            return
        paid, _ = self.payments.pop(self.random.randrange(len(self.payments)))
        assert paid.plan_id is not None
        kind = self.random.choice(("refund", "dispute"))
        values: dict[str, Any] = {
            "user_id": paid.user_id,
            "plan_id": paid.plan_id,
            "amount": paid.amount,
            "currency": paid.currency,
            "refers_to_id": paid.id,
            "transaction_type": kind,
            "processed_at": self.now,
        }
        status, reference = "completed" if kind == "refund" else "disputed", str(uuid4())
        await payments.upsert(self.connection, paid.provider, provider_payment_id=reference, **values, status=status)
        where = (self.now.date().replace(day=1), paid.plan_id, paid.provider)
        names = {"refund": "refunded", "dispute": "disputed"}
        self.books.book(*where, currency=paid.currency, kind=names[kind], amount=-paid.amount)
        if kind == "dispute" and self.random.random() < 0.5:
            self.now += timedelta(minutes=1)
            values |= {"description": "dispute, won", "status": "completed"}
            await payments.upsert(self.connection, paid.provider, provider_payment_id=reference, **values)
            self.books.book(*where, currency=paid.currency, kind="disputed", amount=paid.amount)

    async def call(self, person: Person) -> None:
        endpoint = self.random.choice(("chat", "analyze"))
        outcome = self.random.choice(("succeeded", "succeeded", "upstream_error", "abandoned"))
        credits = self.random.randint(1, 30) if outcome == "succeeded" else 0
        request_id = str(uuid4())
        line = a_line(
            person.id, at=self.now, request_id=request_id, endpoint=endpoint, outcome=outcome, credits_charged=credits
        )
        await ingest(self.connection, [line])
        self.books.call(self.now, person.id, outcome, credits=credits, endpoint=endpoint)
        self.books.balances.append((self.now, person.id, -credits))
        if outcome == "abandoned" and endpoint == "chat":
            self.late.append((person, request_id, self.now))

    async def settle_late(self, person: Person) -> None:  # noqa: ARG002 - the shape of deeds
        """A call that was taken for abandoned is charged, however long ago it was."""
        if not self.late:
            return
        owner, request_id, at = self.late.pop(0)
        line = a_line(owner.id, at=at, request_id=request_id, endpoint="chat", outcome="succeeded", credits_charged=9)
        await correct(self.connection, [line])
        self.books.call(at, owner.id, "abandoned", credits=0, endpoint="chat", n=-1)
        self.books.call(at, owner.id, "succeeded", credits=9, endpoint="chat")
        self.books.balances.append((self.now, owner.id, -9))

    async def grant(self, person: Person) -> None:
        amount = self.random.randint(1, 200)
        await grants.grant(self.connection, person.id, amount=amount, source="promo", reason="x", actor="test")
        self.books.balances.append((self.now, person.id, amount))

    async def refuse(self, person: Person) -> None:
        values = {"key": person.key, "minute": self.now.replace(second=0, microsecond=0)}
        await self.connection.execute(_REFUSE, values)
        self.books.refusals[self.now.date().replace(day=1), "rate_limited"] += 2

    def _note(self, person: Person) -> None:
        """What the account pays from now on."""
        assert person.offer is not None
        pays = person.status in ("active", "past_due")
        amount = person.offer.monthly(person.quantity) if pays else NOTHING
        self.books.pays[person.id][self.now.date()] = (person.offer.currency, amount)

    async def _set_clock(self) -> None:
        await self.connection.execute(_SET_CLOCK, {"now": self.now.isoformat()})


# The triggers of subscriptions and the ledger read a clock that the test moves.
_MOVE_CLOCK = (
    "CREATE SCHEMA moved",
    """
    CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS $$ SELECT pg_catalog.current_setting('moved.now')::timestamptz $$
    """,
    *(
        f"ALTER FUNCTION {name}() SET search_path = moved, public, pg_catalog, pg_temp"
        for name in ("move_subscription", "move_followers")
    ),
    "ALTER TABLE credit_ledger ALTER created_at SET DEFAULT moved.clock_timestamp()",
)
_SET_CLOCK = text("SELECT set_config('moved.now', :now, false)")
_REFUSE = text("""
    INSERT INTO refused_requests AS r (api_key_id, endpoint, code, minute, count)
    VALUES (:key, 'chat', 'rate_limited', :minute, 2)
    ON CONFLICT (api_key_id, endpoint, code, minute) DO UPDATE SET count = r.count + 2
""")


def _terms(offer: Offer) -> PlanTerms:
    return PlanTerms(
        name=offer.id,
        price=offer.price,
        currency=offer.currency,
        pricing_model="per_seat" if offer.per_seat else "flat",
        billing_interval="year" if offer.months == 12 else "month",
        billing_interval_count=1 if offer.months == 12 else offer.months,
    )


async def test_each_report_of_a_year_equals_a_second_bookkeeping_and_stays(connection: AsyncConnection) -> None:
    started = time.monotonic()
    year = Year(connection, seeded_random("a year of reports"))
    await year.prepare()
    remembered: dict[date, dict[Report, tuple[Any, ...]]] = {}
    for month in MONTHS:
        await year.live(_start(month) + timedelta(days=15))
        await year.raise_price()
        await year.live(_start(_next(month)) + timedelta(days=1))
        found = await _all(connection, month)
        _compare(found, year.books, month)
        while (due := await months.next_to_close(connection, ended_by=_start(_next(month)))) is not None:
            assert await months.close(connection, due, value=VALUE)
            year.books.closed.append(due)
        assert year.books.closed[-1] == month
        remembered[month] = found
    await year.live(_start(date(2032, 3, 1)))
    for month, found in remembered.items():
        assert await _all(connection, month) == found
    revenue = await months.get_span(
        connection, Report.REVENUE, first=date(2030, 1, 1), last=date(2032, 3, 1), value=None
    )
    assert {currency: sum(r.net for r in revenue if r.currency == currency) for currency in year.books.paid} == dict(
        year.books.paid
    )
    measured.append(
        f"a year of reports of {ACCOUNTS} accounts: {len(year.books.paid)} currencies, {len(revenue)} rows of revenue,"
        f" every report equal in each month and unchanged after it, {time.monotonic() - started:.0f} s"
    )


async def _all(connection: AsyncConnection, month: date) -> dict[Report, tuple[Any, ...]]:
    return {report: await months.get(connection, report, month=month, value=VALUE) for report in Report}


def _compare(found: dict[Report, tuple[Any, ...]], books: Books, month: date) -> None:
    assert {_mrr_key(row): _mrr_row(row) for row in found[Report.MRR]} == _expected_mrr(books, month)
    assert sum(row.mrr for row in found[Report.PLANS]) == sum(row.closing for row in found[Report.MRR])
    money = {
        (of[1:], sums["charged"], -sums["refunded"], -sums["disputed"], sums["late"])
        for of, sums in books.money.items()
        if of[0] == month
    }
    assert {
        ((r.plan_id, r.provider, r.currency), r.charged, r.refunded, r.disputed, r.of_closed_months)
        for r in found[Report.REVENUE]
    } == money
    balances = Counter[UUID]()
    for at, user_id, amount in books.balances:
        balances[user_id] += amount if at < _start(_next(month)) else 0
    (credits,) = found[Report.CREDITS]
    held = sum(balance for balance in balances.values() if balance > 0)
    assert (credits.outstanding, credits.owed) == (held, held - sum(balances.values()))
    assert credits.outstanding_amount == (Decimal(held) / 100).quantize(CENT, ROUND_HALF_EVEN)
    calls = {(row.endpoint, row.outcome): (row.requests, row.credits_charged) for row in found[Report.OUTCOMES]}
    assert calls == {
        (endpoint, outcome): (count, books.outcomes[month, endpoint, outcome, "credits"])
        for (of, endpoint, outcome, what), count in books.outcomes.items()
        if of == month and what == "requests" and count
    }
    assert {(row.code, row.refusals) for row in found[Report.REFUSALS]} == {
        (code, count) for (of, code), count in books.refusals.items() if of == month
    }
    users = [
        (user_id, count) for (of, user_id, what), count in books.of_user.items() if (of, what) == (month, "credits")
    ]
    top = sorted(
        ((count, books.of_user[month, user_id, "requests"], user_id) for user_id, count in users), reverse=True
    )
    assert [(row.credits_charged, row.requests) for row in found[Report.TOP_USERS]] == [row[:2] for row in top[:100]]
    assert sum(row.credits_charged for row in found[Report.MARGINS]) == sum(count for _, count in users)
    assert sum(row.revenue_usd for row in found[Report.MARGINS]) == Decimal(sum(count for _, count in users)) / 100


NAMES = ("opening", "new", "expansion", "contraction", "churn", "reactivation", "closing")


def _mrr_key(row: Any) -> str:
    return str(row.currency)


def _mrr_row(row: Any) -> tuple[Any, ...]:
    customers = (row.opening_customers, row.new_customers, row.reactivated_customers, row.churned_customers)
    return (*(getattr(row, name) for name in NAMES), *customers, row.closing_customers)


def _expected_mrr(books: Books, month: date) -> dict[str, tuple[Any, ...]]:
    """By walking each account through each day of the year up to the end of the month."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for days in books.pays.values():
        pays: dict[str, Decimal] = {}
        ever: set[str] = set()
        day = MONTHS[0]
        while day < _next(month):
            if day == month:
                for currency, amount in pays.items():
                    _add(sums[currency], "opening", amount, customers="opening_customers")
            if day in days:
                currency, amount = days[day]
                after = {currency: amount} if amount else {}
                for each in pays.keys() | after.keys():
                    before, then = pays.get(each, NOTHING), after.get(each, NOTHING)
                    if day >= month:
                        _move(sums[each], before, then, had=each in ever)
                pays = after
                ever |= after.keys()
            day += timedelta(days=1)
        for currency, amount in pays.items():
            _add(sums[currency], "closing", amount, customers="closing_customers")
    counted = ("opening_customers", "new_customers", "reactivated_customers", "churned_customers", "closing_customers")
    return {currency: tuple(found[name] for name in (*NAMES, *counted)) for currency, found in sums.items() if found}


def _move(sums: Counter[str], before: Decimal, after: Decimal, *, had: bool) -> None:
    if not before and after:
        name, customers = ("reactivation", "reactivated_customers") if had else ("new", "new_customers")
        _add(sums, name, after, customers=customers)
    elif before and not after:
        _add(sums, "churn", -before, customers="churned_customers")
    elif before != after:
        _add(sums, "expansion" if after > before else "contraction", after - before)


def _add(sums: Counter[str], name: str, amount: Decimal, *, customers: str | None = None) -> None:
    sums[name] += amount  # type: ignore[assignment] # counts money
    if customers is not None:
        sums[customers] += 1
