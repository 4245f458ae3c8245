"""What a call to a model costs by its counts, class by class, and what is assumed of counts that were not reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from policies.pricing.price_list import CostList, ModelPrice, PriceList
from policies.pricing.rate_tables import ClassRate
from policies.pricing.units import PriceUnit
from policies.usage.counts import Usage, UsageClass

BYTES_PER_TOKEN = 4  # of text, as tokenizers average for English
_INPUT, _OUTPUT, _TOKEN = UsageClass.INPUT, UsageClass.OUTPUT, PriceUnit.TOKEN  # a look-up in an Enum takes 50 ns
ROOTS = (_INPUT, _OUTPUT)


class Flag(StrEnum):
    """What was odd about the usage of a call; it is charged all the same, and marked."""

    CHILD_ABOVE_PARENT = "child_above_parent"
    MAXIMUM_REACHED = "maximum_reached"
    PLAN_MAXIMUM_REACHED = "plan_maximum_reached"


Part = tuple["UsageClass | PriceUnit", "int | Decimal", Decimal]  # what was used, how much, at which rate


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
    parts: Sequence[Part]
    unit_size: int
    flags: tuple[Flag, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(Line(kind, count, rate, rate * count / self.unit_size) for kind, count, rate in self.parts)


def cost(prices: PriceList, price: ModelPrice, usage: Usage) -> Cost:
    """What a call with that usage costs."""
    if prices.unit is not _TOKEN:
        return _cost_of_unit(prices, price, _count_of(prices.unit, usage))
    parts: list[Part] = []
    amount, scale, is_odd = _amount(price, usage.counts, parts)
    credits = rounded_up(prices, amount, scale)
    flags = (Flag.CHILD_ABOVE_PARENT,) if is_odd else ()
    if prices.maximum is not None and credits > prices.maximum:
        return Cost(prices.maximum, parts, prices.unit_size, (*flags, Flag.MAXIMUM_REACHED))
    return Cost(credits, parts, prices.unit_size, flags)


def rounded_up(prices: PriceList, amount: int, scale: int) -> int:
    """Whole credits, at least the minimum, for an amount in parts of `scale` and of the list's unit."""
    return max(prices.minimum, -(-amount // (scale * prices.unit_size)))


def cost_usd(costs: CostList, usage: Usage | None, *, served: str | None, asked: str | None) -> Decimal | None:
    """What a call costs the operator, exactly; None where its model has no known cost, or its usage is not known."""
    if not is_reported(costs.unit, usage) or (costs.unit is PriceUnit.TOKEN and (usage is None or not usage.counts)):
        return None
    price = costs.find(served=served, asked=asked)
    if price is None:
        return None
    if usage is None or costs.unit is not PriceUnit.TOKEN:
        return price.table.input.exact * _count_of(costs.unit, usage or Usage()) / costs.unit_size
    amount, scale, _ = _amount(price, usage.counts, [])
    return Decimal(amount) / (scale * costs.unit_size)


def explain(prices: PriceList, found: Cost) -> str:
    """How a cost came about, class by class: `1000 input at 2600000 + 20 output at 15600000 per 1000000 tokens`."""
    size = prices.unit if prices.unit_size == 1 else prices.unit.phrase(prices.unit_size)
    parts = [f"{line.count} {line.kind} at {line.rate.normalize():f}" for line in found.lines]
    bounds = f", at least {prices.minimum}" if prices.minimum else ""
    bounds += "" if prices.maximum is None else f", at most {prices.maximum}"
    return f"{' + '.join(parts) or 'nothing'} per {size}{bounds}"


def _cost_of_unit(prices: PriceList, price: ModelPrice, count: int | Decimal) -> Cost:
    table = price.table
    numerator, denominator = count.as_integer_ratio()
    credits = rounded_up(prices, table.input.scaled * numerator, table.scale * denominator)
    parts = ((prices.unit, count, table.input.exact),)
    if prices.maximum is not None and credits > prices.maximum:
        return Cost(prices.maximum, parts, prices.unit_size, (Flag.MAXIMUM_REACHED,))
    return Cost(credits, parts, prices.unit_size)


def _amount(price: ModelPrice, counts: Mapping[UsageClass, int], parts: list[Part]) -> tuple[int, int, bool]:
    """What so many tokens cost, in parts of a scale, and whether they are odd; adds what is priced to `parts`."""
    given = counts.get(_INPUT, 0)
    table = price.table_at(given) if price.above else price.table
    of_input, is_odd = _amount_of(table.input, given, counts, parts=parts)
    of_output, is_output_odd = _amount_of(table.output, counts.get(_OUTPUT, 0), counts, parts=parts)
    return of_input + of_output, table.scale, is_odd or is_output_odd


def _amount_of(rate: ClassRate, count: int, counts: Mapping[UsageClass, int], *, parts: list[Part]) -> tuple[int, bool]:
    """Prices `count` of a class: what its priced children count at their rates, the rest at its own.

    A child that counts more than its parent has is cut to it: the parent is charged, and the usage is odd. Children may
    overlap (cached audio is both); what two of them count is priced as the first.
    """
    kind, exact, scaled, _, children = rate
    amount, rest, is_odd = 0, count, False
    for child in children:
        reported = counts.get(child.kind)
        if not reported:
            continue
        if reported > count:
            is_odd = True
        if child.is_split:
            taken = min(reported, rest)
            rest -= taken
            of_child, is_child_odd = _amount_of(child, taken, counts, parts=parts)
            amount, is_odd = amount + of_child, is_odd or is_child_odd
    if rest:
        parts.append((kind, rest, exact))
        amount += scaled * rest
    return amount, is_odd


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
    if usage is not None and is_final and _INPUT in reported and _OUTPUT in reported:
        return usage, False
    counts = dict(reported)
    counts.setdefault(_INPUT, -(-request_bytes // BYTES_PER_TOKEN))
    if _OUTPUT not in reported or not is_final:
        counts[_OUTPUT] = max(reported.get(_OUTPUT, 0), -(-text_bytes // BYTES_PER_TOKEN))
    is_estimated = usage is None or any(counts[kind] != reported.get(kind, 0) for kind in ROOTS)
    return (usage or Usage())._replace(counts=counts), is_estimated
