"""Ended periods: each is invoiced once with all its usage, whenever it is closed and in whatever order."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import erasure, users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import Tier
from gateway.ledger.db.errors import InUse, NotFound
from gateway.ledger.invoicing import closing, issued_invoices
from gateway.ledger.invoicing.invoices import Invoice
from gateway.ledger.subscriptions import billing_spans, lifecycle, renewals
from gateway.ledger.subscriptions.subscriptions import get_existing, get_for_update
from policies.billing.issuing import Issuer
from tests.ledger.invoicing.test_issued_invoices import (
    JULY,
    JUNE,
    THE_11TH,
    THE_21ST,
    a_plan,
    amounts,
    begun,
    changed,
    invoiced,
    used,
    voided,
)
from tests.ledger.make import list_notifications
from tests.support.sampling import scaled, seeded_random

AUGUST = datetime(2026, 8, 1, tzinfo=JUNE.tzinfo)
SEPTEMBER = datetime(2026, 9, 1, tzinfo=JUNE.tzinfo)
GRACE = timedelta(days=3)
LIVES = scaled(suite=6, full=200)


async def advanced(connection: AsyncConnection, subscription_id: UUID, now: datetime) -> None:
    await renewals.advance(connection, subscription_id, now=now, grace=GRACE)


async def closed(
    connection: AsyncConnection, subscription_id: UUID, start: datetime = JUNE, now: datetime = JULY
) -> Invoice | None:
    return await closing.close_period(connection, subscription_id, start=start, issuer=Issuer(), now=now)


async def open_periods(connection: AsyncConnection, until: datetime) -> list[tuple[UUID, datetime]]:
    return [
        (span.subscription_id, span.period_start)
        for span, _ in await billing_spans.find_open(connection, until=until, limit=500)
    ]


async def drafts(connection: AsyncConnection, subscription_id: UUID) -> int:
    return len(await issued_invoices.list_drafts(connection, subscription_id))


async def test_ended_period_is_invoiced_once(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    await advanced(connection, mine, JULY)
    assert await open_periods(connection, JULY) == [(mine, JUNE)]
    invoice = await closed(connection, mine)
    assert invoice is not None
    assert (amounts(invoice), invoice.period_start, invoice.period_end) == (["9.99"], JUNE, JULY)
    assert await closed(connection, mine) is None
    assert await open_periods(connection, SEPTEMBER) == []


async def test_usage_after_an_early_invoice_and_late_usage_are_each_asked_for_once(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "0.02", "usage"))
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=10)
    assert amounts(await invoiced(connection, mine, THE_11TH)) == ["0.20"]
    await used(connection, mine, at=THE_21ST, credits_charged=40)
    await used(connection, mine, at=JUNE + timedelta(days=2), credits_charged=1)  # recorded after its invoice
    await advanced(connection, mine, AUGUST)
    june = await closed(connection, mine)
    assert june is not None
    assert sorted(amounts(june)) == ["0.02", "0.80"]
    await used(connection, mine, at=THE_21ST, credits_charged=5)
    await used(connection, mine, at=JULY + timedelta(days=1), credits_charged=7)
    july = await closed(connection, mine, start=JULY, now=AUGUST)
    assert july is not None
    assert amounts(july) == ["0.10", "0.14"]
    assert july.lines[0]["description"].startswith("Usage from 2026-06-11 to 2026-07-01: ")


async def test_subscription_that_ends_is_invoiced_to_its_end_and_for_what_is_recorded_after(
    connection: AsyncConnection,
) -> None:
    mine = await begun(connection, await a_plan(connection, "0.02", "usage"))
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=10)
    await lifecycle.cancel(connection, mine, now=THE_11TH, at_period_end=False)
    final = await closed(connection, mine, now=THE_11TH)
    assert final is not None
    assert amounts(final) == ["0.20"]
    assert await billing_spans.find_late_usage(connection, now=JULY, limit=10) == []
    await used(connection, mine, at=JUNE + timedelta(days=2), credits_charged=3)
    assert await billing_spans.find_late_usage(connection, now=JULY, limit=10) == [mine]
    (late,) = await closing.bill_late_usage(connection, mine, issuer=Issuer(), now=JULY)
    assert amounts(late) == ["0.06"]
    assert await billing_spans.find_late_usage(connection, now=JULY, limit=10) == []


async def test_free_periods_take_no_number_and_leave_no_trace(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "0"))
    await advanced(connection, mine, AUGUST)
    assert await open_periods(connection, SEPTEMBER) == []
    assert await connection.scalar(text("SELECT count(*) FROM billing_spans")) == 0


async def test_period_without_usage_needs_no_invoice(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "0.02", "usage"))
    await advanced(connection, mine, JULY)
    assert await closed(connection, mine) is None
    assert await open_periods(connection, SEPTEMBER) == []


async def test_trial_is_free_and_the_period_after_it_is_invoiced(connection: AsyncConnection) -> None:
    user = await users.create(connection, "ada@example.com")
    plan_id = await a_plan(connection, "9.99")
    trial = await lifecycle.start_trial(connection, user.id, plan_id=plan_id, days=10, now=JUNE, actor="test")
    await advanced(connection, trial.id, AUGUST)
    assert await open_periods(connection, AUGUST) == [(trial.id, THE_11TH)]


async def test_what_is_due_to_the_customer_waits_for_an_invoice_that_asks_for_more(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, pro)
    await invoiced(connection, mine, JUNE)
    await changed(connection, mine, THE_11TH, plan_id=basic)  # -19.99 and 6.66
    await advanced(connection, mine, SEPTEMBER)
    assert await closed(connection, mine) is None
    assert await closed(connection, mine, start=JULY, now=AUGUST) is None  # -13.33 and 9.99
    august = await closed(connection, mine, start=AUGUST, now=SEPTEMBER)
    assert august is not None
    assert (amounts(august), str(august.total)) == (["-19.99", "6.66", "9.99", "9.99"], "6.65")
    assert await drafts(connection, mine) == 0


@pytest.mark.parametrize("ends", ["canceled", "free"])
async def test_what_is_due_to_the_customer_is_credited_where_no_invoice_follows(
    connection: AsyncConnection, ends: str
) -> None:
    basic, pro, free = [await a_plan(connection, price) for price in ("9.99", "29.99", "0")]
    mine = await begun(connection, pro)
    await invoiced(connection, mine, JUNE)
    if ends == "canceled":
        await changed(connection, mine, THE_11TH, plan_id=basic)
        await lifecycle.cancel(connection, mine, now=THE_21ST, at_period_end=False)
    else:
        await changed(connection, mine, THE_11TH, plan_id=free)
        await advanced(connection, mine, JULY)
    note = await closed(connection, mine)
    assert note is not None
    assert (note.status, str(note.total)) == ("paid", {"canceled": "-13.33", "free": "-19.99"}[ends])
    assert await drafts(connection, mine) == 0


async def test_change_before_any_invoice_is_on_the_periods_invoice(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await advanced(connection, mine, JULY)
    await changed(connection, mine, JULY + timedelta(days=3), plan_id=basic)  # of July: not on the invoice of June
    june = await closed(connection, mine)
    assert june is not None
    assert (amounts(june), june.period_start) == (["9.99", "-6.66", "19.99"], JUNE)
    assert await drafts(connection, mine) == 1


async def test_each_currency_has_its_own_invoice(connection: AsyncConnection) -> None:
    usage = await a_plan(connection, "0.02", "usage")
    yen = await a_plan(connection, "3000", currency="JPY")
    mine = await begun(connection, usage)
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=10)
    await changed(connection, mine, THE_11TH, plan_id=yen)
    await advanced(connection, mine, JULY)
    assert await closed(connection, mine) is not None
    rows = await connection.execute(
        text("SELECT currency, total FROM invoices WHERE subscription_id = :id ORDER BY currency"), {"id": mine}
    )
    assert [tuple(row) for row in rows] == [("JPY", 2000), ("USD", Decimal("0.20"))]


async def test_plan_of_another_interval_closes_the_period_at_once(connection: AsyncConnection) -> None:
    usage = await a_plan(connection, "0.02", "usage")
    yearly = await a_plan(connection, "300.00", billing_interval="year")
    mine = await begun(connection, usage)
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=10)
    await changed(connection, mine, THE_11TH, plan_id=yearly)
    june = await closed(connection, mine, now=THE_21ST)
    assert june is not None
    assert amounts(june) == ["0.20"]
    await advanced(connection, mine, THE_11TH.replace(year=2027))
    year = await closed(connection, mine, start=THE_11TH, now=THE_11TH.replace(year=2027))
    assert year is not None
    assert amounts(year) == ["300.00"]


async def test_price_of_a_period_is_that_at_its_end(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    await advanced(connection, mine, JULY)
    await connection.execute(text("UPDATE subscription_plans SET price = 99"))
    invoice = await closed(connection, mine)
    assert invoice is not None
    assert amounts(invoice) == ["9.99"]


@pytest.mark.parametrize("change", [{"price": Decimal("20.00"), "credits_per_period": 200}, {"currency": "EUR"}])
async def test_price_that_changes_within_a_period_is_that_of_the_next(
    connection: AsyncConnection, change: dict[str, Any]
) -> None:
    plan = await a_plan(connection, "10.00", credits_per_period=100)
    mine, other = await begun(connection, plan), await begun(connection, plan)
    found = await plans.get(connection, plan)
    assert found is not None
    await plans.change(connection, plan, replace(found.terms, **change))
    at_once = await invoiced(connection, other, THE_11TH)
    await advanced(connection, mine, AUGUST)
    june, july = await closed(connection, mine), await closed(connection, mine, start=JULY, now=AUGUST)
    assert june is not None
    assert july is not None
    terms = {"price": Decimal("10.00"), "currency": "USD", "credits_per_period": 100}
    assert (at_once.total, at_once.currency) == (june.total, june.currency) == (terms["price"], terms["currency"])
    after = terms | change
    assert (july.total, july.currency) == (after["price"], after["currency"])
    granted = text("SELECT amount FROM credit_grants WHERE subscription_id = :id ORDER BY effective_at LIMIT 2")
    assert list(await connection.scalars(granted, {"id": mine})) == [100, after["credits_per_period"]]


async def test_voided_invoice_of_a_closed_period_is_on_the_next_and_the_period_on_no_other(
    connection: AsyncConnection,
) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    await advanced(connection, mine, AUGUST)
    june = await closed(connection, mine)
    assert june is not None
    await voided(connection, june, JULY)
    july = await closed(connection, mine, start=JULY, now=AUGUST)
    assert july is not None
    assert (amounts(july), july.period_start) == (["9.99", "9.99"], JULY)


async def test_late_usage_of_a_voided_invoice_that_another_period_asked_for_is_asked_for_once(
    connection: AsyncConnection,
) -> None:
    mine = await begun(connection, await a_plan(connection, "0.02", "usage"))
    await used(connection, mine, at=THE_11TH, credits_charged=100)
    await advanced(connection, mine, JULY)
    await used(connection, mine, at=JULY + timedelta(days=1), credits_charged=200)
    early = await invoiced(connection, mine, JULY + timedelta(days=2))
    await voided(connection, early, JULY + timedelta(days=3))
    await used(connection, mine, at=JULY + timedelta(days=1), credits_charged=300)
    await closed(connection, mine, JUNE, JULY + timedelta(days=4))
    await invoiced(connection, mine, JULY + timedelta(days=5))
    total = await connection.scalar(
        text("SELECT sum(subtotal) FROM invoices WHERE subscription_id = :id AND status <> 'void'"), {"id": mine}
    )
    assert total == Decimal("12.00")


async def test_period_whose_price_went_on_a_later_invoice_asks_for_its_late_usage_only(
    connection: AsyncConnection,
) -> None:
    usage, pro = await a_plan(connection, "0.02", "usage"), await a_plan(connection, "30.00")
    mine = await begun(connection, usage)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await advanced(connection, mine, JULY)
    assert amounts(await invoiced(connection, mine, JULY)) == ["20.00", "30.00"]
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=10)
    june = await closed(connection, mine)
    assert june is not None
    assert amounts(june) == ["0.20"]


async def test_operator_names_a_past_period(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    await advanced(connection, mine, AUGUST)
    found = await get_for_update(connection, mine)
    made = await closing.close_named(connection, found, start=JUNE, issuer=Issuer(), now=AUGUST)
    assert (amounts(made), made.period_start) == (["9.99"], JUNE)
    with pytest.raises(InUse, match="was invoiced"):
        await closing.close_named(connection, found, start=JUNE, issuer=Issuer(), now=AUGUST)
    with pytest.raises(NotFound, match="ended period"):
        await closing.close_named(connection, found, start=THE_11TH, issuer=Issuer(), now=AUGUST)


async def test_last_invoice_of_a_deleted_account_names_its_buyer(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    user_id = (await get_existing(connection, mine)).user_id
    await users.patch(connection, user_id, name="Ada", company="Łódź S.A.", billing_address="Street 1\nCity")
    await erasure.erase(connection, user_id, now=THE_11TH)
    final = await closed(connection, mine, now=THE_11TH)
    assert final is not None
    assert final.buyer is not None
    assert (final.buyer["company"], final.buyer["address"]) == ("Łódź S.A.", ["Street 1", "City"])
    assert await connection.scalar(text("SELECT count(*) FROM billing_spans WHERE buyer IS NOT NULL")) == 0
    assert await connection.scalar(text("SELECT billing_address FROM users WHERE id = :id"), {"id": user_id}) is None


async def test_invoice_of_a_deleted_account_that_is_issued_again_names_its_buyer(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    user_id = (await get_existing(connection, mine)).user_id
    await users.patch(connection, user_id, company="Łódź S.A.")
    await erasure.erase(connection, user_id, now=THE_11TH)
    final = await closed(connection, mine, now=THE_11TH)
    assert final is not None
    await voided(connection, final, THE_11TH)
    again = await invoiced(connection, mine, THE_21ST)
    assert again.buyer is not None
    assert (amounts(again), again.buyer["company"]) == (["9.99"], "Łódź S.A.")


async def test_invoice_of_a_deleted_account_that_an_operator_issues_names_its_buyer(
    connection: AsyncConnection,
) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    user_id = (await get_existing(connection, mine)).user_id
    await users.patch(connection, user_id, company="Łódź S.A.")
    await erasure.erase(connection, user_id, now=THE_11TH)
    final = await invoiced(connection, mine, THE_11TH)
    assert final.buyer is not None
    assert (amounts(final), final.buyer["company"]) == (["9.99"], "Łódź S.A.")
    assert await closed(connection, mine, now=THE_11TH) is None


async def test_customer_and_operator_are_told_of_an_invoice_and_nobody_mails_a_deleted_account(
    connection: AsyncConnection,
) -> None:
    kept, deleted = [await begun(connection, await a_plan(connection, "9.99")) for _ in range(2)]
    owners = [(await get_existing(connection, each)).user_id for each in (kept, deleted)]
    await erasure.erase(connection, owners[1], now=THE_11TH)
    await advanced(connection, kept, JULY)
    issued = [await closed(connection, each) for each in (kept, deleted)]
    for invoice, owner in zip(issued, owners, strict=True):
        assert invoice is not None
        told = [payload for kind, payload in await list_notifications(connection, owner) if kind == "invoice.issued"]
        assert [(each["number"], each["total"], each["due_on"]) for each in told] == [
            (invoice.full_number, "9.99", "2026-07-15")
        ]
    mails = """
        SELECT n.user_id FROM notices n JOIN notice_deliveries d ON d.notice_id = n.id
         WHERE n.kind = 'invoice.issued' AND d.channel = 'mail'
    """
    assert (await connection.scalars(text(mails))).all() == [owners[0]]


async def test_paused_subscription_is_invoiced_for_the_period_that_ended(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    await lifecycle.pause(connection, mine)
    assert await billing_spans.find_halted(connection, now=THE_21ST, limit=5) == []
    assert await billing_spans.find_halted(connection, now=JULY, limit=5) == [mine]
    await renewals.end_halted_period(connection, mine, now=JULY)
    assert await closed(connection, mine) is not None
    await lifecycle.resume(connection, mine, now=AUGUST, actor="test")
    assert await open_periods(connection, SEPTEMBER) == []


async def test_suspended_account_is_invoiced_for_no_period_that_it_could_not_use(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    owner = (await get_existing(connection, mine)).user_id
    await users.suspend(connection, owner)
    assert await billing_spans.find_halted(connection, now=THE_21ST, limit=5) == []
    assert await renewals.find_due(connection, now=AUGUST, grace=GRACE, limit=5) == ()
    await advanced(connection, mine, AUGUST)
    assert await billing_spans.find_halted(connection, now=AUGUST, limit=5) == [mine]
    await renewals.end_halted_period(connection, mine, now=AUGUST)
    assert await closed(connection, mine) is not None
    await users.reactivate(connection, owner)
    await lifecycle.continue_reactivated(connection, owner, now=AUGUST, actor="test")
    assert await open_periods(connection, SEPTEMBER) == []
    await advanced(connection, mine, SEPTEMBER)
    august = await closed(connection, mine, start=AUGUST, now=SEPTEMBER)
    assert august is not None
    assert (amounts(august), await open_periods(connection, SEPTEMBER)) == (["9.99"], [])


async def test_random_lives_ask_for_all_usage_once(connection: AsyncConnection) -> None:
    """Early invoices, voids, changes, late usage, and periods that are closed late or never in order."""
    random = seeded_random("close periods")
    for _ in range(LIVES):
        mine, asked = await _life(connection, random)
        total = await connection.scalar(
            text("SELECT coalesce(sum(subtotal), 0) FROM invoices WHERE subscription_id = :id AND status <> 'void'"),
            {"id": mine},
        )
        assert total == asked
        assert await drafts(connection, mine) == 0


async def _life(connection: AsyncConnection, random: Any) -> tuple[UUID, Decimal]:
    """Lives a quarter; gives the subscription, and what its usage costs by the plans that it was made under."""
    prices = {await a_plan(connection, price, "usage"): Decimal(price) for price in ("0.02", "0.05")}
    life = _Life(connection, random, prices)
    await life.begin()
    for hour in sorted(random.sample(range(1, 88 * 24), 40)):
        await life.step(JUNE + timedelta(hours=hour))
    now = SEPTEMBER + timedelta(days=3)
    await advanced(connection, life.id, now)
    await lifecycle.cancel(connection, life.id, now=now, at_period_end=False)
    await life.close(now)
    await closing.bill_late_usage(connection, life.id, issuer=Issuer(), now=now)
    return life.id, life.asked


class _Life:
    """A subscription that changes between plans priced by usage; `asked` is what its usage costs."""

    def __init__(self, connection: AsyncConnection, random: Any, prices: dict[str, Decimal]) -> None:
        self.connection, self.random, self.prices = connection, random, prices
        self.asked = Decimal(0)
        self.issued: list[Invoice] = []

    async def begin(self) -> None:
        self.starts = [(JUNE, next(iter(self.prices)))]
        self.id = await begun(self.connection, self.starts[0][1])

    async def step(self, now: datetime) -> None:
        await advanced(self.connection, self.id, now)
        steps = (self.use, self.use, self.use_late, self.change, self.issue, self.void, self.close)
        await self.random.choice(steps)(now)

    async def use(self, at: datetime) -> None:
        credits = self.random.randrange(1, 9) * 100
        await used(self.connection, self.id, at=at, credits_charged=credits)
        self.asked += credits * self.prices[next(plan for start, plan in reversed(self.starts) if start <= at)]

    async def use_late(self, now: datetime) -> None:
        await self.use(max(JUNE, now - timedelta(hours=self.random.randrange(1, 400))))

    async def change(self, now: datetime) -> None:
        self.starts.append((now, self.random.choice(list(self.prices))))
        await changed(self.connection, self.id, now, plan_id=self.starts[-1][1])

    async def issue(self, now: datetime) -> None:
        with suppress(InUse):
            async with self.connection.begin_nested():
                self.issued.append(await invoiced(self.connection, self.id, now))

    async def void(self, now: datetime) -> None:
        if self.issued and (last := self.issued.pop()).status == "open":
            await voided(self.connection, last, now)

    async def close(self, now: datetime) -> None:
        found = await open_periods(self.connection, now)
        for subscription_id, start in self.random.sample(found, len(found)):
            await closed(self.connection, subscription_id, start, now)


async def test_tiers_count_all_usage_of_a_period_however_often_it_is_invoiced(connection: AsyncConnection) -> None:
    tiers = (Tier(up_to=10, unit_price=Decimal("1.00")), Tier(up_to=None, unit_price=Decimal("0.50")))
    mine = await begun(connection, await a_plan(connection, "0", "usage", tiers=tiers, tiers_mode="graduated"))
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=10)
    assert amounts(await invoiced(connection, mine, THE_11TH)) == ["10.00"]
    await used(connection, mine, at=THE_21ST, credits_charged=10)
    await advanced(connection, mine, JULY)
    june = await closed(connection, mine)
    assert june is not None
    assert amounts(june) == ["5.00"]


async def test_paused_subscriptions_to_a_free_plan_hold_up_no_other(connection: AsyncConnection) -> None:
    free = await begun(connection, await a_plan(connection, "0"))
    paid = await begun(connection, await a_plan(connection, "9.99"))
    for each in (free, paid):
        await lifecycle.pause(connection, each)
    await renewals.end_halted_period(connection, free, now=JULY)
    assert await billing_spans.find_halted(connection, now=JULY, limit=5) == [paid]
