"""Rows of reports as responses have them, with what each figure means."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from pydantic import Field

from gateway.api.schemas.pages import ResponseModel


class OfMonth(ResponseModel):
    month: date = Field(description="Its first day, in UTC.")


class ReportMonth(OfMonth):
    closed_at: datetime | None = Field(description="When its reports were stored; null while they still change.")
    late_requests: int = Field(description="Calls of the month that came after that, and are in none of its reports.")
    late_credits: int = Field(description="Credits charged after that for calls of the month.")


class RevenueRow(OfMonth):
    """Money by plan, provider and currency, of the month in which it came or went back."""

    plan_id: str | None = Field(description="null: for credits, or of no plan.")
    provider: str
    currency: str
    payments: int
    charged: Decimal = Field(description="What customers paid, taxes included.")
    refunded: Decimal
    disputed: Decimal = Field(description="In dispute, or lost by one.")
    net: Decimal = Field(description="`charged` less `refunded` and `disputed`.")
    of_closed_months: Decimal = Field(
        description="The part of `net` that belongs to earlier months, which were closed when it was booked."
    )


class MrrRow(OfMonth):
    """Monthly recurring revenue of one currency, as Stripe Billing defines it; its movements are ChartMogul's."""

    currency: str
    opening: Decimal
    new: Decimal = Field(description="Of accounts that never paid before.")
    expansion: Decimal = Field(description="Of accounts that pay more than before.")
    contraction: Decimal = Field(description="Of accounts that pay less than before; negative.")
    churn: Decimal = Field(description="Of accounts that pay nothing any more; negative.")
    reactivation: Decimal = Field(description="Of accounts that paid once, then nothing, and pay again.")
    closing: Decimal = Field(description="At the end of the month, or now: `opening` and all that moved it.")
    opening_customers: int
    new_customers: int
    reactivated_customers: int
    churned_customers: int
    closing_customers: int
    customer_churn_rate: Decimal | None = Field(description="`churned_customers` by `opening_customers`.")
    revenue_churn_rate: Decimal | None = Field(description="`churn` and `contraction` by `opening`, without the sign.")
    arpu: Decimal | None = Field(description="Average revenue per user: `closing` by `closing_customers`.")


class PlanMrrRow(OfMonth):
    """MRR by plan, provider and currency, at the end of the month or now."""

    plan_id: str
    provider: str
    currency: str
    subscriptions: int
    mrr: Decimal


class CreditsRow(OfMonth):
    """Credits outstanding at the end of the month, or now: a liability."""

    accounts: int = Field(description="With credits left.")
    outstanding: int
    owed: int = Field(description="What postpaid accounts have spent below zero.")
    currency: str | None = Field(description="Of `credits.shown_as`; null, as the amounts, without it.")
    outstanding_amount: Decimal | None
    owed_amount: Decimal | None


class TopUserRow(OfMonth):
    """One of the hundred accounts that were charged most."""

    rank: int
    user_id: UUID
    email: str | None = Field(description="Today's; null once the account was deleted.")
    requests: int
    credits_charged: int
    revenue_usd: Decimal | None = Field(description="The credits as money, by `credits.shown_as` in USD.")
    cost_usd: Decimal
    cost_unknown: int = Field(description="Calls whose cost is not known.")
    margin_usd: Decimal | None


class OutcomeRow(OfMonth):
    """How the calls of a route ended."""

    endpoint: str = Field(description="The route's name.")
    outcome: str
    requests: int
    share: Decimal = Field(description="Of all calls of the route.")
    credits_charged: int


class RefusalRow(OfMonth):
    """Refused requests of known keys."""

    endpoint: str = Field(description="The route's name.")
    code: str
    refusals: int


class MarginRow(OfMonth):
    """What the calls of a plan to a model earn and cost."""

    plan_id: str | None
    model: str | None
    requests: int
    credits_charged: int
    revenue_usd: Decimal | None = Field(description="The credits as money, by `credits.shown_as` in USD.")
    cost_usd: Decimal = Field(description="What the upstreams ask for these calls, as far as it is known.")
    cost_unknown: int = Field(description="Calls whose cost is not known.")
    margin_usd: Decimal | None = Field(description="`revenue_usd` less `cost_usd`.")
