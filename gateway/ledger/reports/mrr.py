"""Monthly recurring revenue, from the history of subscriptions that triggers write.

The history has no amounts: the plan's version tells the price, and policies what it comes to in a month. So there is
one place that computes it, and a few prices stand for any number of subscriptions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from itertools import groupby
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.reports.rows import Mrr, PlanMrr, begins, ends
from policies.billing.invoicing import PriceTier, Pricing
from policies.billing.periods import PeriodLength
from policies.billing.recurring import RollForward, Standing, Step, monthly, roll_forward, steps_of

# Each version of a plan in each quantity that any subscription has had.
_PRICES = text("""
    SELECT m.*, v.tiers, t.*
      FROM (SELECT DISTINCT plan_id, plan_version, quantity FROM subscription_movements) m
      JOIN plan_versions v ON v.plan_id = m.plan_id AND v.version = m.plan_version
     CROSS JOIN LATERAL jsonb_to_record(v.terms) AS t (
           price numeric, currency text, pricing_model text, billing_interval text, billing_interval_count integer)
""")
_POINTS = """
    unnest(CAST(:plan_ids AS text[]), CAST(:versions AS bigint[]), CAST(:quantities AS integer[]),
           CAST(:currencies AS text[]), CAST(:amounts AS numeric[]))
        AS p (plan_id, plan_version, quantity, currency, mrr)
"""
_STANDING = f"""
    SELECT s.user_id, s.plan_id, s.provider, p.currency, p.mrr
      FROM (SELECT DISTINCT ON (subscription_id) * FROM subscription_movements
             WHERE moved_at < :at ORDER BY subscription_id, id DESC) s
      JOIN {_POINTS} ON (p.plan_id, p.plan_version, p.quantity) = (s.plan_id, s.plan_version, s.quantity)
     WHERE s.is_paying AND p.mrr > 0
"""  # noqa: S608 - made of constants
_BY_CURRENCY = text(
    f"SELECT currency, sum(mrr) AS mrr, count(DISTINCT user_id) AS customers FROM ({_STANDING}) r GROUP BY currency"  # noqa: S608 - as above
)
_BY_PLAN = text(f"""
    SELECT plan_id, provider, currency, count(*) AS subscriptions, sum(mrr) AS mrr FROM ({_STANDING}) r
     GROUP BY 1, 2, 3 ORDER BY currency, mrr DESC, plan_id, provider
""")  # noqa: S608 - as above
_MOVED = text(f"""
    SELECT m.user_id, m.subscription_id, (m.moved_at AT TIME ZONE 'UTC')::date AS day,
           coalesce(p.currency, '') AS currency, CASE WHEN m.is_paying THEN coalesce(p.mrr, 0) ELSE 0 END AS mrr
      FROM subscription_movements m
      LEFT JOIN {_POINTS} ON (p.plan_id, p.plan_version, p.quantity) = (m.plan_id, m.plan_version, m.quantity)
     WHERE m.moved_at < :until
       AND m.user_id IN (SELECT user_id FROM subscription_movements WHERE moved_at >= :since AND moved_at < :until)
     ORDER BY m.user_id, day, m.id
""")  # noqa: S608 - as above

Parameters = Mapping[str, Any]


async def of_month(connection: AsyncConnection, month: date) -> tuple[Mrr, ...]:
    """By currency: what it was when the month began, what moved it, what it is when it ends, or now."""
    points = await _points(connection)
    moved = await connection.execute(_MOVED, {**points, "since": begins(month), "until": ends(month)})
    steps = _steps(moved.all(), since=month)
    opened = {row.currency: row for row in await connection.execute(_BY_CURRENCY, {**points, "at": begins(month)})}
    rows = []
    for currency in sorted(opened.keys() | steps.keys()):
        at_first = opened.get(currency)
        opening = RollForward(
            opening=Decimal(0) if at_first is None else at_first.mrr,
            opening_customers=0 if at_first is None else at_first.customers,
        )
        rows.append(_row(month, currency, roll_forward(opening, steps.get(currency, ()))))
    return tuple(rows)


async def by_plan(connection: AsyncConnection, month: date) -> tuple[PlanMrr, ...]:
    """At the end of the month, or now; the largest first in each currency."""
    points = await _points(connection)
    rows = await connection.execute(_BY_PLAN, {**points, "at": ends(month)})
    return tuple(PlanMrr(month, r.plan_id, r.provider, r.currency, r.subscriptions, r.mrr) for r in rows)


async def _points(connection: AsyncConnection) -> Parameters:
    rows = (await connection.execute(_PRICES)).all()
    return {
        "plan_ids": [row.plan_id for row in rows],
        "versions": [row.plan_version for row in rows],
        "quantities": [row.quantity for row in rows],
        "currencies": [row.currency for row in rows],
        "amounts": [_monthly(row) for row in rows],
    }


def _monthly(row: Row[Any]) -> Decimal:
    tiers = tuple(
        PriceTier(
            None if tier["up_to"] is None else int(tier["up_to"]),
            Decimal(tier["unit_price"]),
            Decimal(tier["flat_price"] or 0),
        )
        for tier in row.tiers
    )
    pricing = Pricing(row.pricing_model, row.price, row.currency, tiers)
    period = PeriodLength(row.billing_interval, row.billing_interval_count)
    return monthly(pricing, row.quantity, period=period)


def _steps(moved: Sequence[Row[Any]], *, since: date) -> dict[str, list[Step]]:
    found = defaultdict[str, list[Step]](list)
    for _, rows in groupby(moved, key=lambda row: row.user_id):
        for currency, step in steps_of(map(_standing, rows), since=since):
            found[currency].append(step)
    return found


def _standing(row: Row[Any]) -> Standing:
    return Standing(row.subscription_id, row.day, row.currency, row.mrr)


def _row(month: date, currency: str, of: RollForward) -> Mrr:
    return Mrr(
        month=month,
        currency=currency,
        opening=of.opening,
        new=of.new,
        expansion=of.expansion,
        contraction=of.contraction,
        churn=of.churn,
        reactivation=of.reactivation,
        closing=of.closing,
        opening_customers=of.opening_customers,
        new_customers=of.new_customers,
        reactivated_customers=of.reactivated_customers,
        churned_customers=of.churned_customers,
        closing_customers=of.closing_customers,
        customer_churn_rate=of.customer_churn_rate,
        revenue_churn_rate=of.revenue_churn_rate,
        arpu=of.arpu(currency),
    )
