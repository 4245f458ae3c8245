"""Postpaid usage: how far a balance may go below zero, and what of it is billed when a period ends."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from policies.billing.invoicing import Line, LineKind
from policies.billing.money import rounded


@dataclass(frozen=True, slots=True)
class Overage:
    """At most `credits` below zero, at `price` each; None where the plan bills all usage at its own price."""

    credits: int
    price: Decimal | None


def objection(overage: Overage | None, *, pricing_model: str) -> str | None:
    """Why a plan of this pricing model cannot have the overage, in words for its seller."""
    if overage is None:
        return None
    if pricing_model == "usage":
        return None if overage.price is None else "price is for other plans: priced by usage, all usage has the price"
    return "price is required: what each credit below zero costs" if overage.price is None else None


def billable(balance: int, used: int) -> int:
    """The credits of a period to bill: what is owed at its end, as far as its calls used it.

    `used` are the credits that calls used since credits were billed last. Other debts, as of a refund, are not usage.
    """
    return max(0, min(-balance, used))


def overage_line(credits: int, *, price: Decimal, currency: str, name: str) -> Line:
    """What the credits cost, rounded once. `name` is the plan's."""
    description, amount = f"{name}: usage beyond its credits", rounded(price * credits, currency)
    return Line(description, credits, price, amount, LineKind.OVERAGE)
