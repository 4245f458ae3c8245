"""Invoices issued here: the price of a period and its changes, each invoiced once, whenever the invoice is issued."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, Tier
from gateway.ledger.db.errors import InUse
from gateway.ledger.invoicing import credit_notes, issued_invoices, plan_changes
from gateway.ledger.invoicing.invoices import Invoice
from gateway.ledger.subscriptions import lifecycle, renewals
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_existing, get_for_update
from policies.billing.issuing import Issuer
from tests.ledger.make import a_user
from tests.support.sampling import scaled, seeded_random

JUNE = datetime(2026, 6, 1, tzinfo=UTC)
JULY = datetime(2026, 7, 1, tzinfo=UTC)
LIVES = scaled(suite=4, full=100)
THE_11TH, THE_21ST = JUNE + timedelta(days=10), JUNE + timedelta(days=20)


async def a_plan(connection: AsyncConnection, price: str, model: str = "flat", **terms: Any) -> str:
    name = f"{price} {uuid4().hex[:8]}"
    made = PlanTerms(name=name, price=Decimal(price), pricing_model=model, **terms)
    return (await plans.create(connection, made, plan_id=name.replace(" ", "-").replace(".", "-"))).id


async def begun(connection: AsyncConnection, plan_id: str, quantity: int = 1) -> UUID:
    user = await a_user(connection)
    return (await lifecycle.start(connection, user.id, plan_id=plan_id, now=JUNE, quantity=quantity)).id


async def changed(connection: AsyncConnection, subscription_id: UUID, at: datetime, **to: Any) -> None:
    await plan_changes.change(connection, subscription_id, now=at, actor="test", **to)


async def invoiced(connection: AsyncConnection, subscription_id: UUID, at: datetime, tax_rate: str = "0") -> Invoice:
    found: StoredSubscription = await get_for_update(connection, subscription_id)
    plan = await plan_of(connection, found)
    return await issued_invoices.issue_next(
        connection, found, plan=plan, issuer=Issuer(tax_rate=Decimal(tax_rate)), now=at
    )


async def voided(connection: AsyncConnection, invoice: Invoice, at: datetime) -> None:
    await issued_invoices.void(connection, await issued_invoices.get_for_update(connection, invoice.id), now=at)


async def taken_back(connection: AsyncConnection, invoice: Invoice, at: datetime) -> None:
    found = await issued_invoices.get_for_update(connection, invoice.id)
    await credit_notes.issue(connection, found, issuer=Issuer(), now=at)


def amounts(invoice: Invoice) -> list[str]:
    return [line["amount"] for line in invoice.lines]


async def test_change_before_the_invoice_is_on_the_periods_invoice(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    invoice = await invoiced(connection, mine, THE_21ST, tax_rate="0.19")
    assert amounts(invoice) == ["9.99", "-6.66", "19.99"]
    assert [line["description"].split(":")[0] for line in invoice.lines[1:]] == [
        "Unused time, 2026-06-11 to 2026-07-01",
        "Remaining time, 2026-06-11 to 2026-07-01",
    ]
    assert (str(invoice.subtotal), str(invoice.tax), str(invoice.total)) == ("23.32", "4.43", "27.75")
    assert (invoice.period_start, invoice.period_end, invoice.status) == (JUNE, JULY, "open")
    with pytest.raises(InUse, match="has its invoice"):
        await invoiced(connection, mine, THE_21ST)


async def test_change_after_the_invoice_is_on_exactly_one_other(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, pro)
    assert amounts(await invoiced(connection, mine, JUNE)) == ["29.99"]
    await changed(connection, mine, THE_11TH, plan_id=basic)
    in_favour = await invoiced(connection, mine, THE_21ST)
    assert (amounts(in_favour), str(in_favour.total)) == (["-19.99", "6.66"], "-13.33")
    with pytest.raises(InUse):
        await invoiced(connection, mine, THE_21ST)


async def test_change_without_invoice_is_on_the_next_periods_invoice(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    await invoiced(connection, mine, JUNE)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await renewals.advance(connection, mine, now=JULY, grace=timedelta(days=3))
    july = await invoiced(connection, mine, JULY + timedelta(days=1))
    assert (amounts(july), july.period_start) == (["-6.66", "19.99", "29.99"], JULY)


async def test_changes_within_a_period_add_up(connection: AsyncConnection) -> None:
    seats = await a_plan(connection, "9.99", "per_seat")
    pro = await a_plan(connection, "29.99")
    mine = await begun(connection, seats, quantity=3)
    await changed(connection, mine, THE_11TH, quantity=5)
    await changed(connection, mine, THE_11TH, quantity=5)  # as it is: nothing to ask for
    await changed(connection, mine, THE_21ST, plan_id=pro, quantity=1)
    invoice = await invoiced(connection, mine, THE_21ST)
    assert amounts(invoice) == ["29.97", "-19.98", "33.30", "-16.65", "10.00"]
    drafts = "SELECT count(*) FROM invoices WHERE subscription_id = :id AND status = 'draft'"
    assert await connection.scalar(text(drafts), {"id": mine}) == 0


@pytest.mark.parametrize("asks", ["invoice", "draft of a change"])
@pytest.mark.parametrize("price", ["60.00", "15.00"])
async def test_unused_time_is_given_back_at_the_price_that_was_asked(
    connection: AsyncConnection, asks: str, price: str
) -> None:
    """Not at the price that the plan has for everyone since."""
    free, basic, pro = [await a_plan(connection, each) for each in ("0", "9.00", "30.00")]
    mine = await begun(connection, pro if asks == "invoice" else free)
    if asks == "invoice":
        await invoiced(connection, mine, JUNE)
    else:
        await changed(connection, mine, JUNE, plan_id=pro)
    await repriced(connection, pro, price)
    await changed(connection, mine, THE_11TH, plan_id=basic)
    await repriced(connection, basic, price)
    await changed(connection, mine, THE_21ST, plan_id=free)
    asked_before = [] if asks == "invoice" else ["30.00"]
    assert amounts(await invoiced(connection, mine, THE_21ST)) == [*asked_before, "-20.00", "6.00", "-3.00"]


async def test_seats_after_another_price_give_back_what_they_were_asked_for(connection: AsyncConnection) -> None:
    seats = await a_plan(connection, "30.00", "per_seat")
    mine = await begun(connection, seats, quantity=2)
    await invoiced(connection, mine, JUNE)
    await repriced(connection, seats, "60.00")
    await changed(connection, mine, THE_11TH, quantity=2)  # as it is: nothing to ask for
    await changed(connection, mine, THE_11TH, quantity=1)
    assert amounts(await invoiced(connection, mine, THE_21ST)) == ["-40.00", "40.00"]
    await renewals.advance(connection, mine, now=JULY, grace=timedelta(days=3))
    assert amounts(await invoiced(connection, mine, JULY)) == ["60.00"]


async def repriced(connection: AsyncConnection, plan_id: str, price: str) -> None:
    found = await plans.get(connection, plan_id)
    assert found is not None
    await plans.change(connection, plan_id, replace(found.terms, price=Decimal(price)), subscribers="migrate")


async def test_seats_without_price_leave_no_draft(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "29.99"))
    await changed(connection, mine, THE_11TH, quantity=4)
    assert amounts(await invoiced(connection, mine, THE_21ST)) == ["29.99"]


async def test_plan_of_another_interval_credits_the_rest_and_starts_its_own_period(
    connection: AsyncConnection,
) -> None:
    monthly, yearly = (
        await a_plan(connection, "30.00"),
        await a_plan(connection, "300.00", billing_interval="year"),
    )
    mine = await begun(connection, monthly)
    await changed(connection, mine, THE_11TH, plan_id=yearly)
    invoice = await invoiced(connection, mine, THE_21ST)
    assert (amounts(invoice), invoice.period_start) == (["30.00", "-20.00", "300.00"], THE_11TH)


async def test_change_of_currency_takes_an_invoice_per_currency(connection: AsyncConnection) -> None:
    dollars, yen = await a_plan(connection, "30.00"), await a_plan(connection, "3000", currency="JPY")
    mine = await begun(connection, dollars)
    await changed(connection, mine, THE_11TH, plan_id=yen)
    first, second = [await invoiced(connection, mine, THE_21ST) for _ in range(2)]
    assert (first.currency, amounts(first)) == ("USD", ["30.00", "-20.00"])
    assert (second.currency, amounts(second)) == ("JPY", ["2000"])


async def test_usage_is_invoiced_for_the_time_of_its_plan(connection: AsyncConnection) -> None:
    usage, pro = await a_plan(connection, "0.10", "usage"), await a_plan(connection, "30.00")
    mine = await begun(connection, usage)
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=70)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await used(connection, mine, at=THE_11TH + timedelta(days=1), credits_charged=500)
    await changed(connection, mine, THE_21ST, plan_id=usage)
    await used(connection, mine, at=THE_21ST + timedelta(days=1), credits_charged=30)
    invoice = await invoiced(connection, mine, JULY - timedelta(days=1))
    assert sorted(amounts(invoice)) == sorted(["7.00", "20.00", "-10.00", "3.00"])


async def test_voided_invoice_is_issued_again_unchanged(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    wrong = await invoiced(connection, mine, THE_21ST)
    await voided(connection, wrong, THE_21ST)
    again = await invoiced(connection, mine, THE_21ST, tax_rate="0.19")
    assert (amounts(again), again.number) == (amounts(wrong), (wrong.number or 0) + 1)


async def test_invoice_voided_after_a_change_is_issued_with_it(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    june = await invoiced(connection, mine, JUNE)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await voided(connection, june, THE_21ST)
    again = await invoiced(connection, mine, THE_21ST)
    assert (amounts(again), again.period_start, str(again.total)) == (["9.99", "-6.66", "19.99"], JUNE, "23.32")


async def test_voided_invoice_of_a_change_is_issued_again(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    june = await invoiced(connection, mine, JUNE)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await voided(connection, await invoiced(connection, mine, THE_11TH), THE_21ST)
    again = await invoiced(connection, mine, THE_21ST)
    assert (amounts(again), again.period_start) == (["-6.66", "19.99"], None)
    await voided(connection, june, THE_21ST)  # what came after it was asked for on its own
    assert amounts(await invoiced(connection, mine, THE_21ST)) == ["9.99"]


async def test_voided_invoice_without_changes_is_replaced_by_the_plans_price(connection: AsyncConnection) -> None:
    usage = await a_plan(connection, "0.10", "usage")
    mine = await begun(connection, usage)
    await used(connection, mine, at=JUNE + timedelta(days=1), credits_charged=70)
    wrong = await invoiced(connection, mine, THE_11TH)
    await used(connection, mine, at=JUNE + timedelta(days=2), credits_charged=5)  # it came late
    terms = PlanTerms(name="dearer", price=Decimal("0.20"), pricing_model="usage")
    await plans.change(connection, usage, terms, subscribers="migrate")
    await voided(connection, wrong, THE_21ST)
    again = await invoiced(connection, mine, THE_21ST)
    assert (amounts(wrong), amounts(again), again.metadata) == (["7.00"], ["15.00"], {})


async def test_invoice_voided_in_its_period_is_issued_with_the_next(connection: AsyncConnection) -> None:
    mine = await begun(connection, await a_plan(connection, "9.99"))
    await voided(connection, await invoiced(connection, mine, JUNE), THE_21ST)
    await renewals.advance(connection, mine, now=JULY, grace=timedelta(days=3))
    july = await invoiced(connection, mine, JULY)
    assert (amounts(july), july.period_start) == (["9.99", "9.99"], JULY)


async def test_voiding_never_changes_the_sum_of_invoices(connection: AsyncConnection) -> None:
    random = seeded_random("void invoices")
    plan_ids = [await a_plan(connection, price) for price in ("9.99", "29.99", "0")]
    for _ in range(LIVES):
        hours = sorted(random.sample(range(50 * 24), 10))
        steps = [(hour, random.choice(("issue", "void", *plan_ids))) for hour in hours]
        without = [step for step in steps if step[1] != "void"]
        with_voids, plain = [await asked_in_all(connection, plan_ids[0], each) for each in (steps, without)]
        assert with_voids == plain, steps


async def asked_in_all(connection: AsyncConnection, plan_id: str, steps: list[tuple[int, str]]) -> Decimal:
    """The sum of invoices that are not void after these steps from 1 June on."""
    mine = await begun(connection, plan_id)
    issued: list[Invoice] = []
    for hour, step in [*steps, (60 * 24, "issue")]:
        at = JUNE + timedelta(hours=hour)
        await renewals.advance(connection, mine, now=at, grace=timedelta(days=3))
        if step == "void" and issued:
            await voided(connection, issued.pop(), at)
        elif step == "issue":
            with suppress(InUse):
                async with connection.begin_nested():
                    found = await invoiced(connection, mine, at)
                issued += [found] if found.total else []  # one that asks for nothing is paid, and cannot become void
        elif step != "void":
            await changed(connection, mine, at, plan_id=step)
    total = "SELECT sum(total) FROM invoices WHERE subscription_id = :id AND status IN ('open', 'paid')"
    return Decimal(await connection.scalar(text(total), {"id": mine}))


async def test_credited_invoice_is_neither_credited_nor_issued_again(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, basic)
    june = await invoiced(connection, mine, JUNE)
    await taken_back(connection, june, THE_11TH)
    with pytest.raises(InUse, match="taken back by a credit note"):
        await invoiced(connection, mine, THE_11TH)
    with pytest.raises(InUse, match="need not become void"):
        await voided(connection, june, THE_11TH)
    await changed(connection, mine, THE_11TH, plan_id=pro)
    await changed(connection, mine, THE_21ST, plan_id=basic)  # for that time of the second plan was asked
    assert amounts(await invoiced(connection, mine, THE_21ST)) == ["19.99", "-10.00", "3.33"]


async def test_trial_costs_nothing_and_changes_for_free(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    user = await a_user(connection)
    trial = await lifecycle.start_trial(connection, user.id, plan_id=basic, days=14, now=JUNE, actor="test")
    await changed(connection, trial.id, THE_11TH, plan_id=pro)
    with pytest.raises(InUse, match="trial costs nothing"):
        await invoiced(connection, trial.id, THE_11TH)
    await renewals.advance(connection, trial.id, now=THE_21ST, grace=timedelta(days=3))
    assert amounts(await invoiced(connection, trial.id, THE_21ST)) == ["29.99"]


@pytest.mark.parametrize("at_period_end", [False, True])
async def test_trial_that_was_cancelled_costs_nothing(connection: AsyncConnection, at_period_end: bool) -> None:
    user, plan_id = await a_user(connection), await a_plan(connection, "9.99")
    trial = await lifecycle.start_trial(connection, user.id, plan_id=plan_id, days=14, now=JUNE, actor="test")
    await lifecycle.cancel(connection, trial.id, now=THE_11TH, at_period_end=at_period_end)
    await renewals.advance(connection, trial.id, now=JULY, grace=timedelta(days=3))
    with pytest.raises(InUse, match="trial costs nothing"):
        await invoiced(connection, trial.id, JULY)


async def test_period_that_costs_nothing_yet_has_no_invoice(connection: AsyncConnection) -> None:
    free, usage = await a_plan(connection, "0"), await a_plan(connection, "0.10", "usage")
    basic = await a_plan(connection, "9.00")
    for plan_id in (free, usage):
        mine = await begun(connection, plan_id)
        with pytest.raises(InUse, match="nothing is to be invoiced"):
            async with connection.begin_nested():
                await invoiced(connection, mine, THE_11TH)
        await used(connection, mine, at=THE_11TH, credits_charged=20)
        await changed(connection, mine, THE_21ST, plan_id=basic)
        expected = ["3.00"] if plan_id == free else ["3.00", "2.00"]
        assert amounts(await invoiced(connection, mine, THE_21ST)) == expected


async def test_voided_invoice_of_a_plan_that_became_free_is_replaced_by_one_of_nothing(
    connection: AsyncConnection,
) -> None:
    """Else the lines of the void one would be asked for at the end of the period."""
    basic = await a_plan(connection, "9.00")
    mine = await begun(connection, basic)
    await voided(connection, await invoiced(connection, mine, JUNE), THE_11TH)
    await repriced(connection, basic, "0")
    assert amounts(await invoiced(connection, mine, THE_11TH)) == ["0.00"]


async def test_plan_without_a_price_for_the_seats_is_refused(connection: AsyncConnection) -> None:
    tiers = (Tier(up_to=10, unit_price=Decimal(5)),)
    mine = await begun(connection, await a_plan(connection, "0", "tiered", tiers=tiers))
    with pytest.raises(InUse, match="no tier reaches 11"):
        await changed(connection, mine, THE_11TH, quantity=11)


async def used(connection: AsyncConnection, subscription_id: UUID, *, at: datetime, credits_charged: int) -> None:
    mine = await get_existing(connection, subscription_id)
    row = """
        INSERT INTO usage_tracking (request_id, created_at, user_id, subscription_id, endpoint, method, path,
                                    usage_type, outcome, status_code, credits_charged)
        VALUES (:request_id, :at, :user_id, :subscription_id, 'analyze', 'POST', '/v1/analyze',
                'analysis', 'succeeded', 200, :credits)
    """
    given = {"request_id": uuid4(), "at": at, "user_id": mine.user_id, "subscription_id": mine.id}
    await connection.execute(text(row), {**given, "credits": credits_charged})


async def test_voided_invoice_with_tiered_usage_of_the_period_before_asks_for_all_of_it_again(
    connection: AsyncConnection,
) -> None:
    tiers = (Tier(up_to=10, unit_price=Decimal("1.00")), Tier(up_to=None, unit_price=Decimal("0.50")))
    mine = await begun(connection, await a_plan(connection, "0", "usage", tiers=tiers, tiers_mode="graduated"))
    await used(connection, mine, at=THE_11TH, credits_charged=15)
    await renewals.advance(connection, mine, now=JULY, grace=timedelta(days=3))
    wrong = await invoiced(connection, mine, JULY + timedelta(days=1))
    assert amounts(wrong) == ["10.00", "2.50"]
    await voided(connection, wrong, JULY + timedelta(days=1))
    assert amounts(await invoiced(connection, mine, JULY + timedelta(days=1))) == ["10.00", "2.50"]
