"""Invoice lines: by pricing model, prorated, credited; and totals with tax.

Each line is rounded to the minor unit, and the subtotal is the sum of the lines, so that adding them up gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from math import inf

from policies.billing.money import EXACT, fits, plain, rounded

PRICING_MODELS = ("flat", "per_seat", "tiered", "volume", "usage")


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Units up to and including `up_to` (None: all the rest) at `unit_price` each, plus `flat_price` once."""

    up_to: int | None
    unit_price: Decimal
    flat_price: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Pricing:
    """How a plan is priced. `price` is per period (flat), per seat, or per unit used.

    Usage with tiers has their prices instead, by `tiers_mode`: `graduated` or `volume`.
    """

    model: str
    price: Decimal
    currency: str
    tiers: tuple[PriceTier, ...] = ()
    tiers_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """`start` is inclusive, `end` exclusive."""

    start: datetime
    end: datetime


class LineKind(StrEnum):
    """What a line asks for. `OVERAGE` is usage beyond the credits of a postpaid plan."""

    PLAN = "plan"
    PRORATION = "proration"
    USAGE = "usage"
    OVERAGE = "overage"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True)
class Line:
    """`amount` is rounded, `unit_price` is not; it is None if the line has several.

    `period` is the time that the line is for, where that is not the period of its invoice.
    """

    description: str
    quantity: int
    unit_price: Decimal | None
    amount: Decimal
    kind: LineKind = LineKind.PLAN
    period: Period | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """`total` is subtotal plus tax, to the minor unit."""

    subtotal: Decimal
    tax: Decimal
    total: Decimal


def lines_of(pricing: Pricing, quantity: int, *, description: str) -> tuple[Line, ...]:
    """The lines for a quantity of seats or units. A tier's flat price is due once the tier is reached.

    `tiered` is graduated: each unit has the price of its tier. Under `volume` all units have the last one's price.
    Raises ValueError for a quantity that is negative or beyond the last tier, or an unknown model.
    """
    if quantity < 0:
        raise ValueError(f"the quantity must not be negative, is {quantity}")
    if pricing.model == "flat":
        return (_line(description, 1, pricing.price, currency=pricing.currency),)
    mode = tiers_mode(pricing)
    if mode == "graduated":
        return tuple(_graduated(pricing, quantity, description))
    if mode == "volume":
        return _volume(pricing, quantity, description)
    if pricing.model in ("per_seat", "usage"):
        return (_line(description, quantity, pricing.price, currency=pricing.currency),)
    raise ValueError(f"unknown pricing model {pricing.model!r}; known: {', '.join(PRICING_MODELS)}")


def first_price(pricing: Pricing) -> Decimal:
    """The price to show: of a period or, where the quantity counts, of the first seat or unit; exact."""
    if not pricing.tiers:
        return pricing.price
    first = min(pricing.tiers, key=lambda tier: tier.up_to or inf)
    return first.unit_price + first.flat_price


def tiers_mode(pricing: Pricing) -> str | None:
    """`graduated` or `volume`; None without tiers."""
    if pricing.model == "usage" and pricing.tiers:
        return pricing.tiers_mode or "graduated"
    return {"tiered": "graduated", "volume": "volume"}.get(pricing.model)


def share(amount: Decimal, period: Period, part: Period, *, currency: str) -> Decimal:
    """The part's share of the period's amount, by elapsed time.

    The shares of consecutive parts add up to the amount, since each is the difference of the amounts due by its end and
    by its start. Raises ValueError for a part outside the period.
    """
    if not (period.start <= part.start <= part.end <= period.end and period.start < period.end):
        raise ValueError("the part must lie within the period")
    return _due_by(part.end, amount, period, currency=currency) - _due_by(part.start, amount, period, currency=currency)


def unused(lines: Iterable[Line], *, period: Period, at: datetime, currency: str) -> tuple[Line, ...]:
    """Credits for the rest of a period whose lines end at `at`; no lines of 0. Raises ValueError, as `share`."""
    rest = Period(at, period.end)
    credits = ((line, -share(line.amount, period, rest, currency=currency)) for line in lines)
    return tuple(_dated(line, "Unused time", rest, amount=amount) for line, amount in credits if amount)


def remaining(lines: Iterable[Line], *, period: Period, at: datetime, currency: str) -> tuple[Line, ...]:
    """Charges for the rest of a period whose lines start at `at`; no lines of 0. Raises ValueError, as `share`."""
    rest = Period(at, period.end)
    due = ((line, share(line.amount, period, rest, currency=currency)) for line in lines)
    return tuple(_dated(line, "Remaining time", rest, amount=amount) for line, amount in due if amount)


def totals(lines: Iterable[Line], *, tax_rate: Decimal, currency: str) -> Totals:
    """`tax_rate` is a fraction, 0.19 for 19 %; tax is on the subtotal, rounded once."""
    subtotal = sum((line.amount for line in lines), rounded(Decimal(0), currency))
    tax = rounded(subtotal * tax_rate, currency)
    return Totals(subtotal, tax, subtotal + tax)


def credit_note(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines of the credit note that reverses an invoice."""
    return tuple(replace(line, amount=-line.amount) for line in lines)


def partial_credit(invoiced: Totals, *, credited: Decimal, amount: Decimal, currency: str) -> Totals:
    """The credit note of a part of an invoice: `amount` of its total, tax in proportion; both are negative.

    `credited` is what former credit notes took. The parts of tax are differences of rounded shares, so that notes over
    the whole total take exactly the invoice's tax. Raises ValueError for an amount that is not positive, does not fit
    the currency, or is more than is left.
    """
    left = invoiced.total - credited
    if amount <= 0 or not fits(amount, currency):
        raise ValueError(f"must be above 0, in whole minor units of {currency}")
    if amount > left:
        raise ValueError(f"at most {plain(rounded(left, currency))} {currency} of this invoice can be credited")
    before, after = (_tax_within(invoiced, part, currency=currency) for part in (credited, credited + amount))
    tax = after - before
    return Totals(-(amount - tax), -tax, -amount)


def usage_lines(pricing: Pricing, used: int, *, billed: int, description: str) -> tuple[Line, ...]:
    """Lines for the units used since `billed` units were invoiced; none where there are no more.

    Their amounts are the price of all less that of the billed, so invoices add up to the price of all however often
    usage is invoiced.
    """
    if used <= billed:
        return ()
    lines = lines_of(pricing, used, description=description)
    if billed:
        before = sum((line.amount for line in lines_of(pricing, billed, description="")), Decimal(0))
        due = sum((line.amount for line in lines), Decimal(0)) - before
        unit_price = pricing.price if pricing.model == "usage" and not pricing.tiers else None
        lines = (Line(description, used - billed, unit_price, due),)
    return tuple(replace(line, kind=LineKind.USAGE) for line in lines)


def _line(description: str, quantity: int, unit_price: Decimal, *, currency: str, flat: Decimal = Decimal(0)) -> Line:
    amount = rounded(unit_price * quantity + flat, currency)
    return Line(description, quantity, None if flat else unit_price, amount)


def _graduated(pricing: Pricing, quantity: int, description: str) -> Iterable[Line]:
    below = 0
    for tier in pricing.tiers:
        if quantity <= below:
            return
        within = quantity - below if tier.up_to is None else min(quantity, tier.up_to) - below
        name = f"{description}, {_span(below, tier)}"
        yield _line(name, within, tier.unit_price, currency=pricing.currency, flat=tier.flat_price)
        below += within
    _check_covered(quantity, below)


def _volume(pricing: Pricing, quantity: int, description: str) -> tuple[Line, ...]:
    if quantity == 0:
        return ()
    tier = next((tier for tier in pricing.tiers if tier.up_to is None or quantity <= tier.up_to), None)
    if tier is None:
        raise ValueError(f"no tier reaches {quantity}")
    return (_line(description, quantity, tier.unit_price, currency=pricing.currency, flat=tier.flat_price),)


def _check_covered(quantity: int, covered: int) -> None:
    if covered < quantity:
        raise ValueError(f"no tier reaches {quantity}")


def _span(below: int, tier: PriceTier) -> str:
    return f"from {below + 1} on" if tier.up_to is None else f"{below + 1} to {tier.up_to}"


def _due_by(instant: datetime, amount: Decimal, period: Period, *, currency: str) -> Decimal:
    elapsed, whole = (_microseconds(length) for length in (instant - period.start, period.end - period.start))
    return rounded(EXACT.divide(EXACT.multiply(amount, elapsed), whole), currency)


def _tax_within(invoiced: Totals, part: Decimal, *, currency: str) -> Decimal:
    if not invoiced.total:
        return Decimal(0)
    return rounded(EXACT.divide(EXACT.multiply(invoiced.tax, part), invoiced.total), currency)


def _dated(line: Line, what: str, part: Period, *, amount: Decimal) -> Line:
    """Names the time that the line is for, since it may be on the invoice of a later period."""
    span = f"{part.start:%Y-%m-%d} to {part.end:%Y-%m-%d}"
    description = f"{what}, {span}: {line.description}"
    return replace(line, description=description, amount=amount, kind=LineKind.PRORATION, period=part)


def _microseconds(length: timedelta) -> Decimal:
    return Decimal(length // timedelta(microseconds=1))
