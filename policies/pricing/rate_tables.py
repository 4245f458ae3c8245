"""Rates as whole numbers: a map from class to credits, resolved once for every class, with one scale for all.

A call is then charged by multiplications and one division of whole numbers, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from math import lcm
from typing import NamedTuple

from policies.usage.counts import PARENTS, UsageClass

Rates = Mapping[UsageClass, Decimal]
_NOT_PRICED = Decimal(0)


class ClassRate(NamedTuple):
    """The rate of one class: exact in credits, and `scaled` by its table.

    `is_split` says that the class, or one that it contains, has a rate of its own, so that its tokens are priced apart
    from those of its parent.
    """

    kind: UsageClass
    exact: Decimal
    scaled: int
    is_split: bool
    children: tuple[ClassRate, ...]


class RateTable(NamedTuple):
    """A rate of `scaled` credits for each `scale` units. `held_input` is the dearest of the input classes, scaled."""

    scale: int
    input: ClassRate
    output: ClassRate
    held_input: int


def rate_table(rates: Rates) -> RateTable:
    """The table of a map; a class without a rate is priced as its parent, and as 0 where that has none."""
    scale = lcm(*(rate.as_integer_ratio()[1] for rate in rates.values()))
    of_input = _class_rate(UsageClass.INPUT, rates, _NOT_PRICED, scale)
    of_output = _class_rate(UsageClass.OUTPUT, rates, _NOT_PRICED, scale)
    return RateTable(scale, of_input, of_output, _dearest(of_input))


def _class_rate(kind: UsageClass, rates: Rates, inherited: Decimal, scale: int) -> ClassRate:
    exact = rates.get(kind, inherited)
    numerator, denominator = exact.as_integer_ratio()
    children = tuple(_class_rate(child, rates, exact, scale) for child in UsageClass if PARENTS[child] is kind)
    is_split = kind in rates or any(child.is_split for child in children)
    return ClassRate(kind, exact, numerator * (scale // denominator), is_split, children)


def _dearest(rate: ClassRate) -> int:
    return max(rate.scaled, *(_dearest(child) for child in rate.children)) if rate.children else rate.scaled
