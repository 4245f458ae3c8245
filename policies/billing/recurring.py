"""Monthly recurring revenue (MRR): what a subscription comes to in a month, and how an account's moves.

As Stripe Billing defines it: active and past due subscriptions, without trials, taxes, free plans and metered usage,
normalized to a month. Movements have ChartMogul's names: new, expansion, contraction, churn and reactivation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from itertools import groupby

from policies.billing.invoicing import Pricing, lines_of
from policies.billing.money import EXACT, rounded
from policies.billing.periods import PeriodLength

# A mean month of a common year has 365 / 12 days.
_MONTHS_OF_A_YEAR, _DAYS_OF_A_YEAR = Decimal(12), Decimal(365)
_PERIODS_OF_A_YEAR = {
    "day": _DAYS_OF_A_YEAR,
    "week": EXACT.divide(_DAYS_OF_A_YEAR, Decimal(7)),
    "month": _MONTHS_OF_A_YEAR,
    "year": Decimal(1),
}
_RATE = Decimal("0.0001")


class Movement(StrEnum):
    NEW = "new"
    EXPANSION = "expansion"
    CONTRACTION = "contraction"
    CHURN = "churn"
    REACTIVATION = "reactivation"


def monthly(pricing: Pricing, quantity: int, *, period: PeriodLength) -> Decimal:
    """What the subscription comes to in a month, to the minor unit. A plan that bills usage comes to nothing.

    Nor does a quantity that the plan's tiers do not reach.
    """
    if pricing.model == "usage":
        return Decimal(0)
    try:
        lines = lines_of(pricing, quantity, description="")
    except ValueError:
        return Decimal(0)
    a_period = sum((line.amount for line in lines), Decimal(0))
    a_year = EXACT.multiply(a_period, _PERIODS_OF_A_YEAR[period.interval])
    return rounded(EXACT.divide(a_year, _MONTHS_OF_A_YEAR * period.count), pricing.currency)


def movement(before: Decimal, after: Decimal, *, has_paid: bool) -> Movement | None:
    """What it is that an account's MRR goes from `before` to `after`; None where it does not move.

    `has_paid`: whether it was ever above nothing.
    """
    if before == after:
        return None
    if before == 0:
        return Movement.REACTIVATION if has_paid else Movement.NEW
    if after == 0:
        return Movement.CHURN
    return Movement.EXPANSION if after > before else Movement.CONTRACTION


@dataclass(frozen=True, slots=True)
class Step:
    """An account's MRR before and after a day."""

    before: Decimal
    after: Decimal
    has_paid: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What a subscription comes to in a month, from a day on; nothing for one that has ended."""

    subscription: Hashable
    day: date
    currency: str
    mrr: Decimal


def steps_of(history: Iterable[Standing], *, since: date) -> Iterator[tuple[str, Step]]:
    """The steps of one account's MRR from `since` on, each with its currency, from all of its history in order.

    A day nets: whoever moves to another subscription, or comes and goes within a day, has not left or come.
    """
    standings: dict[Hashable, tuple[str, Decimal]] = {}
    paid: set[str] = set()
    before: dict[str, Decimal] = {}
    for day, moved in groupby(history, key=lambda each: each.day):
        standings.update((each.subscription, (each.currency, each.mrr)) for each in moved)
        after = _by_currency(standings.values())
        for currency in sorted(before.keys() | after.keys()):
            step = Step(before.get(currency, Decimal(0)), after.get(currency, Decimal(0)), currency in paid)
            if day >= since and step.before != step.after:
                yield currency, step
        paid.update(currency for currency, mrr in after.items() if mrr)
        before = after


def _by_currency(standings: Iterable[tuple[str, Decimal]]) -> dict[str, Decimal]:
    sums = defaultdict[str, Decimal](Decimal)
    for currency, mrr in standings:
        sums[currency] += mrr
    return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class RollForward:
    """The MRR of one currency over a time: what it was, what moved it, and what it is. Contraction and churn are
    negative; so `closing` is the sum of all before it.
    """

    opening: Decimal
    new: Decimal = Decimal(0)
    expansion: Decimal = Decimal(0)
    contraction: Decimal = Decimal(0)
    churn: Decimal = Decimal(0)
    reactivation: Decimal = Decimal(0)
    opening_customers: int
    new_customers: int = 0
    churned_customers: int = 0
    reactivated_customers: int = 0

    @property
    def closing(self) -> Decimal:
        return self.opening + self.new + self.expansion + self.contraction + self.churn + self.reactivation

    @property
    def closing_customers(self) -> int:
        return self.opening_customers + self.new_customers + self.reactivated_customers - self.churned_customers

    @property
    def customer_churn_rate(self) -> Decimal | None:
        """Of the customers at the beginning, how many left."""
        return _rate(Decimal(self.churned_customers), Decimal(self.opening_customers))

    @property
    def revenue_churn_rate(self) -> Decimal | None:
        """Of the MRR at the beginning, how much churn and contraction took (gross)."""
        return _rate(-(self.churn + self.contraction), self.opening)

    def arpu(self, currency: str) -> Decimal | None:
        """Average revenue per user: the closing MRR by the customers then."""
        if not self.closing_customers:
            return None
        return rounded(EXACT.divide(self.closing, Decimal(self.closing_customers)), currency)


def roll_forward(opening: RollForward, steps: Iterable[Step]) -> RollForward:
    """`opening` and what the steps add to it."""
    sums = dict.fromkeys(Movement, Decimal(0))
    counts = dict.fromkeys(Movement, 0)
    for step in steps:
        if (kind := movement(step.before, step.after, has_paid=step.has_paid)) is not None:
            sums[kind] += step.after - step.before
            counts[kind] += 1
    return replace(
        opening,
        **{str(kind): getattr(opening, kind) + amount for kind, amount in sums.items()},
        new_customers=opening.new_customers + counts[Movement.NEW],
        churned_customers=opening.churned_customers + counts[Movement.CHURN],
        reactivated_customers=opening.reactivated_customers + counts[Movement.REACTIVATION],
    )


def _rate(part: Decimal, whole: Decimal) -> Decimal | None:
    return EXACT.divide(part, whole).quantize(_RATE, context=EXACT) if whole else None
