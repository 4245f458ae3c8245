"""Prices of AI calls: for each model a map from usage class to credits.

Counts are inclusive (`policies.usage.counts`): input contains cached input, output contains reasoning. A class
without a rate is priced as its parent, so a map of input and output is a whole price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from policies.model import Plan, Refusal, Refused
from policies.pricing.units import PriceUnit
from policies.usage.counts import PARENTS, Usage, UsageClass

Rates = Mapping[UsageClass, Decimal]

DEFAULT_MAX_OUTPUT = 4096  # output tokens that a request is taken to allow where nothing says more
HELD_BYTES_PER_TOKEN = 3  # of a request; less than any tokenizer's average, so that a hold is rarely too small
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
class ModelPrice:
    """What one model costs for each unit of its list.

    `above` maps a count of input to the rates of the whole call once its input passes it, lowest mark first. `feature`
    is the plan feature that the model needs. `max_output` is the most tokens that the model writes.
    """

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    feature: str | None = None
    max_output: int | None = None

    def rates_at(self, input_count: int) -> Rates:
        """The rates of a call with so much input."""
        found = self.rates
        for mark, rates in self.above:
            if input_count > mark:
                found = {**self.rates, **rates}
        return found


def rate_of(rates: Rates, kind: UsageClass) -> Decimal:
    """The rate of a class, else of its parent; 0 where neither is priced."""
    here: UsageClass | None = kind
    while here is not None:
        if (rate := rates.get(here)) is not None:
            return rate
        here = PARENTS[here]
    return Decimal(0)


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


@dataclass(frozen=True)
class PriceList:
    """Prices by model. `reader` names the API whose usage is priced.

    `hold` None is an estimate of the request itself. `unknown_model` prices models that are not listed; None refuses
    them. `maximum` is what one call can cost at most.
    """

    name: str
    reader: str
    models: Mapping[str, ModelPrice]
    unit: PriceUnit = PriceUnit.TOKEN
    unit_size: int = 1
    unknown_model: ModelPrice | None = None
    hold: int | None = None
    minimum: int = 0
    maximum: int | None = None
    # What only a plain price has: a list is never known before its response, nor counted at pointers.
    is_known_at_admission: bool = field(default=False, init=False)

    @cached_property
    def _patterns(self) -> tuple[tuple[str, ModelPrice], ...]:
        """The names that end in `*`, without it, the longest first."""
        patterns = [(name[:-1], price) for name, price in self.models.items() if name.endswith("*")]
        return tuple(sorted(patterns, key=lambda pattern: -len(pattern[0])))

    @cached_property
    def is_free(self) -> bool:
        """Whether no model costs anything: the list is then open to an account without credits."""
        priced = [*self.models.values(), self.unknown_model or ModelPrice({})]
        maps = [rates for price in priced for rates in (price.rates, *(above for _, above in price.above))]
        return not self.minimum and not any(rate for rates in maps for rate in rates.values())

    def find(self, model: str | None) -> ModelPrice | None:
        """The price of a model: by its exact name, else by the longest pattern, else what unknown models cost."""
        if model is not None:
            exact = self.models.get(model)
            if exact is not None:
                return exact
            for prefix, price in self._patterns:
                if model.startswith(prefix):
                    return price
        return self.unknown_model

    def price_of(self, model: str | None) -> ModelPrice:
        """As `find`; raises Refused for a model that is not offered."""
        found = self.find(model)
        if found is None:
            asked = "The request names no model" if model is None else f"The model {model[:100]!r} is not offered here"
            raise Refused(
                Refusal.MODEL_NOT_OFFERED,
                f"{asked}.",
                model=model,
                models=sorted(self.models),
            )
        return found


def cost(prices: PriceList, price: ModelPrice, usage: Usage) -> Cost:
    """What a call with that usage costs."""
    lines, flags = _lines(prices, price, usage)
    exact = sum((line.credits for line in lines), Decimal(0))
    credits = max(prices.minimum, int(exact.to_integral_value(ROUND_CEILING)))
    if prices.maximum is not None and credits > prices.maximum:
        return Cost(prices.maximum, lines, (*flags, Flag.MAXIMUM_REACHED))
    return Cost(credits, lines, flags)


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
        reported = counts.get(child, 0)
        is_odd |= reported > count
        if not reported or not _is_priced(child, rates):
            continue
        taken = min(reported, rest)
        rest -= taken
        is_odd |= _split(child, taken, counts, rates=rates, size=size, into=into)
    if rest:
        rate = rate_of(rates, kind)
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


def estimated_hold(prices: PriceList, price: ModelPrice, plan: Plan, *, body_bytes: int, max_output: int | None) -> int:
    """Credits to hold for a call: the list's own number, else an estimate of the request.

    That is the body's bytes / 3 at the dearest input class, and the output that the request allows at the output rate.
    """
    if prices.hold is not None:
        return prices.hold
    if prices.unit is not PriceUnit.TOKEN:
        return cost(prices, price, Usage()).credits
    input_count = -(-body_bytes // HELD_BYTES_PER_TOKEN)
    rates = price.rates_at(input_count)
    dearest = max(rate_of(rates, kind) for kind in UsageClass if root_of(kind) is UsageClass.INPUT)
    output_count = allowed_output(price, plan, max_output)
    exact = (dearest * input_count + rate_of(rates, UsageClass.OUTPUT) * output_count) / prices.unit_size
    credits = max(prices.minimum, int(exact.to_integral_value(ROUND_CEILING)))
    return credits if prices.maximum is None else min(credits, prices.maximum)


def allowed_output(price: ModelPrice, plan: Plan, asked: int | None) -> int:
    """How much output a request allows: by itself, else by its plan, its model, or the default."""
    if asked is not None:
        return asked
    of_plan = plan.features.get("max_output_tokens")
    if isinstance(of_plan, int) and not isinstance(of_plan, bool):
        return of_plan
    return DEFAULT_MAX_OUTPUT if price.max_output is None else price.max_output


def root_of(kind: UsageClass) -> UsageClass:
    parent = PARENTS[kind]
    return kind if parent is None else root_of(parent)


def completed(usage: Usage | None, *, request_bytes: int, text_bytes: int) -> tuple[Usage, bool]:
    """The usage with what was not reported estimated from bytes; says whether anything was."""
    counts = {} if usage is None else dict(usage.counts)
    estimates = {UsageClass.INPUT: request_bytes, UsageClass.OUTPUT: text_bytes}
    missing = [kind for kind in ROOTS if kind not in counts]
    for kind in missing:
        counts[kind] = -(-estimates[kind] // BYTES_PER_TOKEN)
    filled = Usage(counts, None if usage is None else usage.seconds, None if usage is None else usage.cost_usd)
    return filled, bool(missing)
