"""A closed month stays as it was: what comes later is reported by an open one, or counted beside it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.payments import payment_booking, payments
from gateway.ledger.payments.payment_booking import PaymentPurpose
from gateway.ledger.reports import months
from gateway.ledger.reports.rows import Report, month_of, next_month
from gateway.ledger.subscriptions import lifecycle
from gateway.ledger.usage.ingestion import correct, ingest
from policies.billing.money import CreditValue
from policies.billing.payments import DisputeStatus, PaymentStatus, RemoteDispute, RemotePayment
from tests.ledger.make import a_key, a_line, a_user

OCTOBER, NOVEMBER = date(2025, 10, 1), date(2025, 11, 1)
IN_OCTOBER = datetime(2025, 10, 20, 12, tzinfo=UTC)
VALUE = CreditValue("USD", Decimal(100))
PRO = PlanTerms(name="pro", price=Decimal(30))


async def _pay(connection: AsyncConnection, user_id: UUID, **changed: Any) -> payments.Payment:
    values: dict[str, Any] = {
        "user_id": user_id,
        "transaction_type": "subscription",
        "status": "completed",
        "amount": Decimal("29.99"),
        "currency": "USD",
        "processed_at": IN_OCTOBER,
    } | changed
    reference = values.pop("reference", uuid4().hex)
    return await payments.upsert(connection, "stripe", provider_payment_id=reference, **values)


async def _all(connection: AsyncConnection, month: date) -> dict[Report, tuple[Any, ...]]:
    return {report: await months.get(connection, report, month=month, value=VALUE) for report in Report}


async def test_money_is_of_the_month_in_which_it_came_or_went_back(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    paid = await _pay(connection, user.id)
    await _pay(connection, user.id, amount=Decimal(5), currency="EUR")
    await _pay(connection, user.id, status="failed")
    await _pay(connection, user.id, status="pending", reference="later")
    refund = {"transaction_type": "refund", "refers_to_id": paid.id, "amount": Decimal("9.99")}
    await _pay(connection, user.id, **refund, processed_at=IN_OCTOBER + timedelta(days=20))
    eur, usd = await months.get(connection, Report.REVENUE, month=OCTOBER, value=None)
    assert (eur.currency, eur.net) == ("EUR", 5)
    assert (usd.payments, usd.charged, usd.refunded, usd.net) == (1, Decimal("29.99"), 0, Decimal("29.99"))
    (usd,) = await months.get(connection, Report.REVENUE, month=NOVEMBER, value=None)
    assert (usd.payments, usd.charged, usd.refunded, usd.net) == (0, 0, Decimal("9.99"), Decimal("-9.99"))
    await _pay(connection, user.id, reference="later")
    usd = (await months.get(connection, Report.REVENUE, month=OCTOBER, value=None))[1]
    assert (usd.payments, usd.charged) == (2, Decimal("59.98"))


@pytest.mark.parametrize(
    ("outcome", "disputed"), [(DisputeStatus.OPEN, "29.99"), (DisputeStatus.LOST, "29.99"), (DisputeStatus.WON, "0")]
)
async def test_dispute_takes_the_money_unless_it_is_won(
    connection: AsyncConnection, outcome: DisputeStatus, disputed: str
) -> None:
    """As a provider's payment is booked, first with the dispute open."""
    user, amount, instant = await a_user(connection), Decimal("29.99"), now()
    paid = RemotePayment("p", "c", None, PaymentStatus.COMPLETED, amount, amount, "USD", occurred_at=instant)
    for status in (DisputeStatus.OPEN, outcome):
        remote = replace(paid, disputes=(RemoteDispute("d", amount, status, "fraudulent"),))
        await payment_booking.book(connection, "stripe", remote, purpose=PaymentPurpose(user.id), now=instant)
    (row,) = await months.get(connection, Report.REVENUE, month=month_of(instant), value=None)
    assert (row.charged, row.disputed) == (amount, Decimal(disputed))


@pytest.mark.parametrize(("outcome", "disputed"), [("lost", "29.99"), ("won", "0")])
async def test_dispute_that_the_release_before_booked_is_told_by_its_description(
    connection: AsyncConnection, outcome: str, disputed: str
) -> None:
    user = await a_user(connection)
    description = f"dispute, {outcome}: fraudulent"
    await _pay(connection, user.id, transaction_type="dispute", description=description)
    rows = await months.get(connection, Report.REVENUE, month=OCTOBER, value=None)
    assert sum(row.disputed for row in rows) == Decimal(disputed)


async def test_closed_month_never_changes_and_what_comes_late_is_told(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await _pay(connection, user.id, reference="first")
    late: dict[str, Any] = {"request_id": str(uuid4()), "at": IN_OCTOBER}
    await ingest(connection, [a_line(user.id, at=IN_OCTOBER, credits_charged=7, cost_usd="0.02")])
    await ingest(connection, [a_line(user.id, **late, outcome="abandoned", credits_charged=0)])
    assert await months.next_to_close(connection, ended_by=IN_OCTOBER) is None
    assert await months.next_to_close(connection, ended_by=IN_OCTOBER + timedelta(days=20)) == OCTOBER
    assert await months.close(connection, OCTOBER, value=VALUE)
    before = await _all(connection, OCTOBER)
    assert before[Report.MARGINS][0].margin_usd == Decimal("0.05")
    await _pay(connection, user.id, amount=Decimal(100))
    await _pay(connection, user.id, reference="first", status="failed")
    await correct(connection, [a_line(user.id, **late, credits_charged=3)])
    await grants.grant(connection, user.id, amount=10, source="promo", reason="x", actor="test")
    assert await _all(connection, OCTOBER) == before
    (row,) = await months.get(connection, Report.REVENUE, month=NOVEMBER, value=None)
    assert (row.net, row.of_closed_months) == (Decimal("70.01"), Decimal("70.01"))
    listed = {each.month: each for each in await months.list_months(connection, now=IN_OCTOBER + timedelta(days=20))}
    assert (listed[OCTOBER].late_requests, listed[OCTOBER].late_credits) == (0, 3)
    assert listed[NOVEMBER].closed_at is None
    assert not await months.close(connection, OCTOBER, value=VALUE)


async def test_erased_account_is_in_no_report_by_its_address(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    await ingest(connection, [a_line(user.id, at=IN_OCTOBER, credits_charged=7)])
    await months.close(connection, OCTOBER, value=VALUE)
    (row,) = await months.get(connection, Report.TOP_USERS, month=OCTOBER, value=VALUE)
    assert (row.rank, row.user_id, row.requests, row.credits_charged, row.email) == (1, user.id, 1, 7, user.email)
    assert row.revenue_usd == Decimal("0.07")
    stored = await connection.scalar(text("SELECT reports::text FROM report_months"))
    assert user.email not in str(stored)


async def test_sums_by_account_are_those_of_the_calls(connection: AsyncConnection) -> None:
    one, other = await a_user(connection), await a_user(connection)
    fixed: dict[str, Any] = {"request_id": str(uuid4()), "at": IN_OCTOBER}
    calls = [a_line(one.id, at=IN_OCTOBER, credits_charged=amount, cost_usd="0.25") for amount in (1, 2, 4)]
    await ingest(connection, [*calls, *calls[:1], a_line(other.id, **fixed, outcome="abandoned", credits_charged=0)])
    await correct(connection, [a_line(other.id, **fixed, credits_charged=9)])
    await correct(connection, [a_line(other.id, **fixed, credits_charged=9)])
    first, second = await months.get(connection, Report.TOP_USERS, month=OCTOBER, value=None)
    assert (first.user_id, first.requests, first.credits_charged, first.cost_unknown) == (other.id, 1, 9, 1)
    assert (second.user_id, second.requests, second.credits_charged, second.cost_usd) == (
        one.id,
        3,
        7,
        Decimal("0.75"),
    )


async def test_mrr_follows_plan_seats_price_and_end(connection: AsyncConnection) -> None:
    month = month_of(datetime.now(UTC))
    now = datetime.now(UTC)
    await plans.create(connection, PRO)
    await plans.create(
        connection, replace(PRO, name="seats", price=Decimal(120), pricing_model="per_seat", billing_interval="year")
    )
    await plans.create(connection, replace(PRO, name="free", price=Decimal(0)))
    accounts = [await users.create(connection, f"{number}@example.com") for number in range(4)]
    started = [
        await lifecycle.start(connection, user.id, plan_id=plan_id, now=now, quantity=2)
        for user, plan_id in zip(accounts, ("pro", "seats", "free", "pro"), strict=True)
    ]
    await lifecycle.start_trial(connection, (await a_user(connection)).id, plan_id="pro", days=5, now=now, actor="t")
    assert await _mrr(connection, month) == (30 + 20 + 30, 3)
    await plans.change(connection, "pro", replace(PRO, price=Decimal(40)), subscribers="migrate")
    assert await _mrr(connection, month) == (40 + 20 + 40, 3)
    await plans.change(connection, "pro", replace(PRO, price=Decimal(50)), subscribers="keep")
    await lifecycle.cancel(connection, started[3].id, now=now, at_period_end=False)
    await lifecycle.pause(connection, started[1].id)
    assert await _mrr(connection, month) == (40, 1)
    assert {row.plan_id: row.mrr for row in await months.get(connection, Report.PLANS, month=month, value=None)} == {
        "pro": 40
    }
    assert (await months.get(connection, Report.MRR, month=next_month(month), value=None))[0].opening == 40


async def _mrr(connection: AsyncConnection, month: date) -> tuple[float, int]:
    (row,) = await months.get(connection, Report.MRR, month=month, value=None)
    return float(row.closing), row.closing_customers


async def test_credits_outstanding_are_those_at_the_end_of_the_month(connection: AsyncConnection) -> None:
    rich, poor = await a_user(connection), await a_user(connection)
    await grants.grant(connection, rich.id, amount=250, source="promo", reason="x", actor="test")
    await grants.adjust(connection, poor.id, amount=-40, reason="x", actor="test")
    (now,) = await months.get(connection, Report.CREDITS, month=month_of(datetime.now(UTC)), value=VALUE)
    assert (now.accounts, now.outstanding, now.owed) == (1, 250, 40)
    assert (now.currency, now.outstanding_amount, now.owed_amount) == ("USD", Decimal("2.50"), Decimal("0.40"))
    (then,) = await months.get(connection, Report.CREDITS, month=OCTOBER, value=None)
    assert (then.accounts, then.outstanding, then.owed, then.outstanding_amount) == (0, 0, 0, None)


async def test_refusals_are_counted_by_code(connection: AsyncConnection) -> None:
    user = await a_user(connection)
    key = await a_key(connection, user.id)
    add = text("""INSERT INTO refused_requests (api_key_id, endpoint, code, minute, count)
                  VALUES (:key, 'chat', :code, :minute, 3)""")
    for code, minute in (("rate_limited", IN_OCTOBER), ("rate_limited", IN_OCTOBER + timedelta(minutes=1))):
        await connection.execute(add, {"key": key.id, "code": code, "minute": minute})
    (row,) = await months.get(connection, Report.REFUSALS, month=OCTOBER, value=None)
    assert (row.endpoint, row.code, row.refusals) == ("chat", "rate_limited", 6)
