"""What credits a subscription gives: for a period, for the rest of one, and what a change of plan gives or takes.

What is given is rounded down and what is taken is rounded up, so that no sequence of changes makes credits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal

# How much of a period's credits is used, in percent, when the account is told.
LOW_BALANCE_PERCENTS = (80, 100)

# Lower burns first: what ends with the period before what was paid for.
PRIORITIES = {"plan": 10, "trial": 10, "promo": 20, "admin": 30, "purchase": 50}


@dataclass(frozen=True, slots=True)
class Refill:
    """Credits for a period; `expires_at` None: what is left of them rolls over into the next."""

    source: Literal["plan", "trial"]
    amount: int
    expires_at: datetime | None


def period_credits(credits_per_period: int, *, pricing_model: str, quantity: int) -> int:
    """The credits of a whole period. A plan that is priced per seat gives them per seat."""
    return credits_per_period * quantity if pricing_model == "per_seat" else credits_per_period


def refill(amount: int, *, period_end: datetime, rolls_over: bool, is_trial: bool = False) -> Refill:
    """What a period begins with. It is a grant of its own, so no refill touches what was bought.

    Credits of a trial end with it, whatever the plan says.
    """
    if is_trial:
        return Refill("trial", amount, period_end)
    return Refill("plan", amount, None if rolls_over else period_end)


def share_left(start: datetime, end: datetime, *, now: datetime) -> Fraction:
    """How much of the period is still to come, from 0 to 1."""
    share = Fraction(_microseconds(start=now, end=end), _microseconds(start=start, end=end))
    return max(Fraction(0), min(Fraction(1), share))


def prorated_credits(before: int, after: int, *, left: Fraction) -> int:
    """What a change of the period's credits gives (positive) or takes (negative) with this share of it left."""
    return (after - before) * left.numerator // left.denominator  # towards less: floor, also below zero


def _microseconds(*, start: datetime, end: datetime) -> int:
    span = end - start
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
