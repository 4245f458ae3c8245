"""The rows of each report. `month` is the first day of a month, in UTC; currencies are never added together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID


class Report(StrEnum):
    REVENUE = "revenue"
    MRR = "mrr"
    PLANS = "plans"
    CREDITS = "credits"
    TOP_USERS = "top-users"
    OUTCOMES = "outcomes"
    REFUSALS = "refusals"
    MARGINS = "margins"


@dataclass(frozen=True, slots=True)
class Revenue:
    """Money of the month, by the day on which it came or went back: `net` is what is left of `charged`.

    `of_closed_months`: the part of `net` that belongs to months that had been closed when it was booked.
    """

    month: date
    plan_id: str | None
    provider: str
    currency: str
    payments: int
    charged: Decimal
    refunded: Decimal
    disputed: Decimal
    net: Decimal
    of_closed_months: Decimal


@dataclass(frozen=True, slots=True)
class Mrr:
    """Monthly recurring revenue and what moved it (`policies.billing.recurring`); rates are None of nothing."""

    month: date
    currency: str
    opening: Decimal
    new: Decimal
    expansion: Decimal
    contraction: Decimal
    churn: Decimal
    reactivation: Decimal
    closing: Decimal
    opening_customers: int
    new_customers: int
    reactivated_customers: int
    churned_customers: int
    closing_customers: int
    customer_churn_rate: Decimal | None
    revenue_churn_rate: Decimal | None
    arpu: Decimal | None


@dataclass(frozen=True, slots=True)
class PlanMrr:
    """The MRR at the end of the month, or now, of the paying subscriptions to a plan."""

    month: date
    plan_id: str
    provider: str
    currency: str
    subscriptions: int
    mrr: Decimal


@dataclass(frozen=True, slots=True)
class Credits:
    """What accounts could still spend at the end of the month, or can now: a liability. `owed` is what postpaid
    accounts had spent beyond. The amounts are None where credits are not shown as money.
    """

    month: date
    accounts: int
    outstanding: int
    owed: int
    currency: str | None
    outstanding_amount: Decimal | None
    owed_amount: Decimal | None


@dataclass(frozen=True, slots=True)
class TopUser:
    """An account by what it was charged; `email` is today's, None once it was deleted."""

    month: date
    rank: int
    user_id: UUID
    requests: int
    credits_charged: int
    revenue_usd: Decimal | None
    cost_usd: Decimal
    cost_unknown: int
    margin_usd: Decimal | None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The calls of a route that ended so; `share` is of all calls of the route."""

    month: date
    endpoint: str
    outcome: str
    requests: int
    share: Decimal
    credits_charged: int


@dataclass(frozen=True, slots=True)
class Refusals:
    month: date
    endpoint: str
    code: str
    refusals: int


@dataclass(frozen=True, slots=True)
class Margins:
    """What the calls of a plan to a model earn: their credits as money, less what the upstream asks."""

    month: date
    plan_id: str | None
    model: str | None
    requests: int
    credits_charged: int
    revenue_usd: Decimal | None
    cost_usd: Decimal
    cost_unknown: int
    margin_usd: Decimal | None


KINDS: Mapping[Report, type[Any]] = MappingProxyType(
    {
        Report.REVENUE: Revenue,
        Report.MRR: Mrr,
        Report.PLANS: PlanMrr,
        Report.CREDITS: Credits,
        Report.TOP_USERS: TopUser,
        Report.OUTCOMES: Outcomes,
        Report.REFUSALS: Refusals,
        Report.MARGINS: Margins,
    }
)


def month_of(instant: datetime) -> date:
    return instant.astimezone(UTC).date().replace(day=1)


def next_month(month: date) -> date:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def begins(month: date) -> datetime:
    """Its first instant, in UTC."""
    return datetime.combine(month, time(), UTC)


def ends(month: date) -> datetime:
    return begins(next_month(month))
