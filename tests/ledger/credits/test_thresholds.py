"""An account is notified once when 80 % of a period's credits are used, and once when all are."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.credits import grants
from gateway.ledger.credits.thresholds import Alerts, choose_alerts
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.subscriptions import lifecycle, renewals, subscriptions
from gateway.ledger.usage.ingestion import ingest
from tests.ledger.make import NOON, a_line, a_user, list_notifications


async def _subscribed(
    connection: AsyncConnection, *, credits_per_period: int = 100
) -> subscriptions.StoredSubscription:
    terms = PlanTerms(name=uuid4().hex, price=Decimal(1), credits_per_period=credits_per_period)
    plan = await plans.create(connection, terms)
    return await lifecycle.start(connection, (await a_user(connection)).id, plan_id=plan.id, now=NOON)


async def _told(connection: AsyncConnection, user_id: UUID) -> list[int]:
    return [
        payload["percent"]
        for kind, payload in await list_notifications(connection, user_id)
        if kind == "credits.threshold"
    ]


async def test_threshold_notification_is_enqueued_once(connection: AsyncConnection) -> None:
    user_id = (await _subscribed(connection)).user_id
    told = []
    for charge in (79, 1, 5, 15, 10, 100):
        await ingest(connection, [a_line(user_id, credits_charged=charge)])
        told.append(await _told(connection, user_id))
    assert told == [[], [80], [80], [80, 100], [80, 100], [80, 100]]


async def test_charge_across_both_thresholds_notifies_of_both(connection: AsyncConnection) -> None:
    first, second = [await _subscribed(connection) for _ in range(2)]
    lines = [a_line(first.user_id, credits_charged=250), a_line(second.user_id, credits_charged=79)]
    await ingest(connection, lines)
    assert sorted(await _told(connection, first.user_id)) == [80, 100]
    assert await _told(connection, second.user_id) == []


async def test_replayed_batch_notifies_nobody(connection: AsyncConnection) -> None:
    user_id = (await _subscribed(connection)).user_id
    line = a_line(user_id, credits_charged=85)
    for _ in range(3):
        await ingest(connection, [line])
    assert await _told(connection, user_id) == [80]


async def test_next_period_notifies_again(connection: AsyncConnection) -> None:
    begun = await _subscribed(connection)
    await ingest(connection, [a_line(begun.user_id, credits_charged=80)])
    await renewals.advance(connection, begun.id, now=begun.current_period_end, grace=timedelta(days=3))
    await ingest(connection, [a_line(begun.user_id, credits_charged=79)])
    assert await _told(connection, begun.user_id) == [80]
    await ingest(connection, [a_line(begun.user_id, credits_charged=1)])
    assert await _told(connection, begun.user_id) == [80, 80]


async def test_smaller_plan_can_cross_thresholds_by_past_usage(connection: AsyncConnection) -> None:
    begun = await _subscribed(connection)
    await ingest(connection, [a_line(begun.user_id, credits_charged=50)])
    smaller = await plans.create(connection, PlanTerms(name=uuid4().hex, price=Decimal(1), credits_per_period=60))
    await plan_changes.change(connection, begun.id, plan_id=smaller.id, now=NOON, actor="test")
    assert await _told(connection, begun.user_id) == [80]


async def test_account_without_period_gets_no_threshold_notification(connection: AsyncConnection) -> None:
    user_id = (await a_user(connection)).id
    empty = await _subscribed(connection, credits_per_period=0)
    await ingest(connection, [a_line(user_id, credits_charged=9), a_line(empty.user_id, credits_charged=9)])
    assert await _told(connection, user_id) == await _told(connection, empty.user_id) == []


async def test_credits_at_the_end_of_their_column_stop_the_charges_of_nobody(connection: AsyncConnection) -> None:
    """A period that a former release began with 2^63 - 1 credits, in one batch with another account."""
    rich, other = [await _subscribed(connection) for _ in range(2)]
    statement = (
        "UPDATE user_credits SET period_credits = :most, credits_used_this_period = :used WHERE user_id = :user_id"
    )
    most = 2**63 - 1
    await connection.execute(text(statement), {"most": most, "used": most - 5, "user_id": rich.user_id})
    lines = [a_line(rich.user_id, credits_charged=1), a_line(other.user_id, credits_charged=85)]
    await ingest(connection, lines)
    assert await _told(connection, rich.user_id) == [80]
    assert await _told(connection, other.user_id) == [80]


async def test_chosen_percentages_replace_the_usual_ones(connection: AsyncConnection) -> None:
    user_id = (await _subscribed(connection)).user_id
    await choose_alerts(connection, user_id, Alerts((50, 90)))
    for charge in (49, 1, 35, 5, 100):
        await ingest(connection, [a_line(user_id, credits_charged=charge)])
    assert await _told(connection, user_id) == [50, 90]


async def test_account_that_chose_no_percentage_is_told_of_none(connection: AsyncConnection) -> None:
    user_id = (await _subscribed(connection)).user_id
    await choose_alerts(connection, user_id, Alerts(()))
    await ingest(connection, [a_line(user_id, credits_charged=300)])
    assert await _told(connection, user_id) == []


async def test_percentage_that_is_passed_when_it_is_chosen_is_told_in_the_next_period(
    connection: AsyncConnection,
) -> None:
    begun = await _subscribed(connection)
    await ingest(connection, [a_line(begun.user_id, credits_charged=60)])
    await choose_alerts(connection, begun.user_id, Alerts((50, 70)))
    await ingest(connection, [a_line(begun.user_id, credits_charged=1)])
    assert await _told(connection, begun.user_id) == []
    await ingest(connection, [a_line(begun.user_id, credits_charged=10)])
    assert await _told(connection, begun.user_id) == [70]
    await renewals.advance(connection, begun.id, now=begun.current_period_end, grace=timedelta(days=3))
    await ingest(connection, [a_line(begun.user_id, credits_charged=55)])
    assert await _told(connection, begun.user_id) == [70, 50]


async def test_balance_is_told_each_time_that_calls_take_it_below(connection: AsyncConnection) -> None:
    user_id = (await a_user(connection)).id
    await _grant(connection, user_id, 100)
    await choose_alerts(connection, user_id, Alerts((), balance_below=50))
    told = []
    for charge in (50, 1, 5):
        await ingest(connection, [a_line(user_id, credits_charged=charge)])
        told.append(await _told_of_balance(connection, user_id))
    assert told == [[], [49], [49]]
    await _grant(connection, user_id, 5)  # 49: below still
    await ingest(connection, [a_line(user_id, credits_charged=1)])
    assert await _told_of_balance(connection, user_id) == [49]
    await _grant(connection, user_id, 2)
    await ingest(connection, [a_line(user_id, credits_charged=10)])
    assert await _told_of_balance(connection, user_id) == [49, 40]


async def test_balance_that_is_below_when_the_alert_is_chosen_is_told_after_it_was_above(
    connection: AsyncConnection,
) -> None:
    user_id = (await a_user(connection)).id
    await _grant(connection, user_id, 40)
    await choose_alerts(connection, user_id, Alerts(balance_below=50))
    await ingest(connection, [a_line(user_id, credits_charged=1)])
    assert await _told_of_balance(connection, user_id) == []
    await _grant(connection, user_id, 100)
    await ingest(connection, [a_line(user_id, credits_charged=100)])
    assert await _told_of_balance(connection, user_id) == [39]


async def _grant(connection: AsyncConnection, user_id: UUID, amount: int) -> None:
    await grants.grant(connection, user_id, amount=amount, source="promo", reason="test", actor="test")


async def _told_of_balance(connection: AsyncConnection, user_id: UUID) -> list[int]:
    notified = await list_notifications(connection, user_id)
    return [payload["current_credits"] for kind, payload in notified if kind == "credits.low"]
