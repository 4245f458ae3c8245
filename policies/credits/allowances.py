"""How many credits a subscription grants: for a period, and for the rest of one after a change of plan.

Grants are rounded down and deductions up, so that no sequence of changes creates credits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal

# The used percentages of a period's credits at which the account is notified.
LOW_BALANCE_PERCENTS = (80, 100)

# What a period gives at most: Redis computes in doubles, exact to 2**53. Releases before 0.2.0 saved plans with more.
MAX_PERIOD_CREDITS = 10**12

# Lower numbers burn down first: credits that end with the period before purchased ones.
PRIORITIES = {"plan": 10, "trial": 10, "promo": 20, "admin": 30, "purchase": 50, "overage": 0}


@dataclass(frozen=True, slots=True)
class Refill:
    """Credits for a period. With `expires_at` None the rest rolls over into the next period."""

    source: Literal["plan", "trial"]
    amount: int
    expires_at: datetime | None


def has_seats(pricing_model: str) -> bool:
    """Whether the quantity of a subscription means anything: not where the price is flat, or is that of usage."""
    return pricing_model in ("per_seat", "tiered", "volume")


def period_credits(credits_per_period: int, *, pricing_model: str, quantity: int) -> int:
    """The credits of a whole period. A plan that is priced per seat gives them per seat."""
    credits = credits_per_period * quantity if pricing_model == "per_seat" else credits_per_period
    return min(credits, MAX_PERIOD_CREDITS)


def refill(amount: int, *, period_end: datetime, rolls_over: bool, is_trial: bool = False) -> Refill:
    """The grant that a period starts with. Credits of a trial expire with it, whatever the plan says."""
    if is_trial:
        return Refill("trial", amount, period_end)
    return Refill("plan", amount, None if rolls_over else period_end)


def remaining_share(start: datetime, end: datetime, *, now: datetime) -> Fraction:
    """The share of the period after `now`, from 0 to 1."""
    share = Fraction(_microseconds(start=now, end=end), _microseconds(start=start, end=end))
    return max(Fraction(0), min(Fraction(1), share))


def prorated_credits(before: int, after: int, *, share: Fraction) -> int:
    """The credits to grant (positive) or take (negative) for a change with this share of the period left."""
    return (after - before) * share.numerator // share.denominator  # floor, also below zero


def _microseconds(*, start: datetime, end: datetime) -> int:
    span = end - start
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
