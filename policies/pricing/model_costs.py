"""What a call to a model costs by its counts, class by class, and what is assumed of counts that were not reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import NamedTuple

from policies.pricing.price_list import ModelPrice, PriceList, Rates, rate_of
from policies.pricing.units import PriceUnit
from policies.usage.counts import PARENTS, Usage, UsageClass

BYTES_PER_TOKEN = 4  # of text, as tokenizers average for English
ROOTS = (UsageClass.INPUT, UsageClass.OUTPUT)
CHILDREN: Mapping[UsageClass, tuple[UsageClass, ...]] = {
    parent: tuple(kind for kind in UsageClass if PARENTS[kind] is parent) for parent in UsageClass
}


class Flag(StrEnum):
    """What was odd about the usage of a call; it is charged all the same, and marked."""

    CHILD_ABOVE_PARENT = "child_above_parent"
    MAXIMUM_REACHED = "maximum_reached"


@dataclass(frozen=True, slots=True)
class Line:
    """One class of a call's usage and its exact price in credits."""

    kind: UsageClass | PriceUnit
    count: int | Decimal
    rate: Decimal
    credits: Decimal


class Cost(NamedTuple):
    """What a call costs in whole credits, how that came about, and what was odd."""

    credits: int
    lines: tuple[Line, ...]
    flags: tuple[Flag, ...]


def cost(prices: PriceList, price: ModelPrice, usage: Usage) -> Cost:
    """What a call with that usage costs."""
    lines, flags = _lines(prices, price, usage)
    exact = sum((line.credits for line in lines), Decimal(0))
    credits = max(prices.minimum, int(exact.to_integral_value(ROUND_CEILING)))
    if prices.maximum is not None and credits > prices.maximum:
        return Cost(prices.maximum, lines, (*flags, Flag.MAXIMUM_REACHED))
    return Cost(credits, lines, flags)


def explain(prices: PriceList, found: Cost) -> str:
    """How a cost came about, class by class: `1000 input at 2600000 + 20 output at 15600000 per 1000000 tokens`."""
    size = prices.unit if prices.unit_size == 1 else prices.unit.phrase(prices.unit_size)
    parts = [f"{line.count} {line.kind} at {line.rate.normalize():f}" for line in found.lines]
    bounds = f", at least {prices.minimum}" if prices.minimum else ""
    bounds += "" if prices.maximum is None else f", at most {prices.maximum}"
    return f"{' + '.join(parts) or 'nothing'} per {size}{bounds}"


def _lines(prices: PriceList, price: ModelPrice, usage: Usage) -> tuple[tuple[Line, ...], tuple[Flag, ...]]:
    if prices.unit is not PriceUnit.TOKEN:
        count = _count_of(prices.unit, usage)
        rate = rate_of(price.rates, UsageClass.INPUT)
        return (Line(prices.unit, count, rate, rate * count / prices.unit_size),), ()
    rates = price.rates_at(usage.counts.get(UsageClass.INPUT, 0))
    lines: list[Line] = []
    is_odd = False
    for root in ROOTS:
        is_odd |= _split(root, usage.counts.get(root, 0), usage.counts, rates=rates, size=prices.unit_size, into=lines)
    return tuple(lines), (Flag.CHILD_ABOVE_PARENT,) if is_odd else ()


def _split(
    kind: UsageClass,
    count: int,
    counts: Mapping[UsageClass, int],
    *,
    rates: Rates,
    size: int,
    into: list[Line],
) -> bool:
    """Prices `count` of a class: what its priced children count at their rates, the rest at its own.

    A child that counts more than its parent has is cut to it: the parent is charged. Says whether one was. Children may
    overlap (cached audio is both); what two of them count is priced as the first.
    """
    rest, is_odd = count, False
    for child in CHILDREN[kind]:
        reported = counts.get(child)
        if not reported:
            continue
        is_odd |= reported > count
        if child not in rates and not _is_priced(child, rates):
            continue
        taken = min(reported, rest)
        rest -= taken
        is_odd |= _split(child, taken, counts, rates=rates, size=size, into=into)
    if rest:
        rate = rates[kind] if kind in rates else rate_of(rates, kind)
        into.append(Line(kind, rest, rate, rate * rest / size))
    return is_odd


def _is_priced(kind: UsageClass, rates: Rates) -> bool:
    """Whether a class, or one that it contains, has a rate of its own."""
    return kind in rates or any(_is_priced(child, rates) for child in CHILDREN[kind])


def _count_of(unit: PriceUnit, usage: Usage) -> int | Decimal:
    if unit is PriceUnit.SECOND:
        return usage.seconds or Decimal(0)
    if unit is PriceUnit.USD:
        return usage.cost_usd or Decimal(0)
    return 1


def is_reported(unit: PriceUnit, usage: Usage | None) -> bool:
    """Whether a usage says what a unit other than tokens is priced by. A call needs no report."""
    if unit is PriceUnit.SECOND:
        return usage is not None and usage.seconds is not None
    if unit is PriceUnit.USD:
        return usage is not None and usage.cost_usd is not None
    return True


def completed(usage: Usage | None, *, request_bytes: int, text_bytes: int, is_final: bool) -> tuple[Usage, bool]:
    """The usage with what was not reported estimated from bytes; says whether anything was.

    A response that reports its input and generates no text has no output. In one that is not final the output counts at
    least what its text is estimated at, for what an API reports before the end is a beginning.
    """
    reported = {} if usage is None else usage.counts
    if usage is not None and is_final and UsageClass.INPUT in reported and UsageClass.OUTPUT in reported:
        return usage, False
    counts = dict(reported)
    counts.setdefault(UsageClass.INPUT, -(-request_bytes // BYTES_PER_TOKEN))
    if UsageClass.OUTPUT not in reported or not is_final:
        counts[UsageClass.OUTPUT] = max(reported.get(UsageClass.OUTPUT, 0), -(-text_bytes // BYTES_PER_TOKEN))
    is_estimated = usage is None or any(counts[kind] != reported.get(kind, 0) for kind in ROOTS)
    return replace(usage or Usage(), counts=counts), is_estimated
