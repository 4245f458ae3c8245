"""What a call costs the operator: by the model that answered before the one asked for, exactly, or not known."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policies.pricing.model_costs import cost_usd
from policies.pricing.price_list import CostList, ModelPrice
from policies.pricing.units import PriceUnit
from policies.usage.counts import Usage, UsageClass

USED = Usage({UsageClass.INPUT: 1000, UsageClass.CACHED_INPUT: 900, UsageClass.OUTPUT: 300})


def flat(rate: int) -> ModelPrice:
    return ModelPrice({UsageClass.INPUT: Decimal(rate)})


COSTS = CostList(
    {"asked": flat(1), "served": flat(2), "ask*": flat(3), "serv*": flat(4), "served-2*": flat(5)},
    catalogue=lambda name: flat(9) if name in ("served", "rare") else None,
)


@pytest.mark.parametrize(
    ("served", "asked", "rate"),
    [
        ("served", "asked", 2),
        ("served-1", "asked", 1),
        ("served-1", "asking", 4),
        ("served-22", "asking", 5),
        (None, "asking", 3),
        (None, "asked", 1),
        ("rare", "asking", 3),
        ("rare", "other", 9),
        ("other", "rare", 9),
        ("other", "another", None),
        (None, None, None),
    ],
)
def test_cost_is_that_of_the_nearest_name(served: str | None, asked: str | None, rate: int | None) -> None:
    found = COSTS.find(served=served, asked=asked)
    assert (None if found is None else found.rates[UsageClass.INPUT]) == rate


def test_cost_is_exact_by_class_and_mark() -> None:
    rates = {UsageClass.INPUT: Decimal("2.5"), UsageClass.CACHED_INPUT: Decimal("1.25"), UsageClass.OUTPUT: Decimal(10)}
    price = ModelPrice(rates, above=((500, {UsageClass.INPUT: Decimal(5)}),))
    costs = CostList({"m": price, "n": ModelPrice(rates)}, unit_size=10**6)
    assert cost_usd(costs, USED, served=None, asked="n") == Decimal("0.004375")
    assert cost_usd(costs, USED, served=None, asked="m") == Decimal("0.008")


@pytest.mark.parametrize(
    ("costs", "usage", "expected"),
    [
        (CostList({"*": flat(2)}), None, None),
        (CostList({"*": flat(2)}), Usage(), None),
        (CostList({"*": flat(2)}, PriceUnit.SECOND), Usage({UsageClass.INPUT: 5}), None),
        (CostList({"*": flat(2)}, PriceUnit.SECOND), Usage(seconds=Decimal("1.5")), Decimal(3)),
        (CostList({"*": flat(2)}, PriceUnit.CALL), None, Decimal(2)),
        (CostList({"*": flat(0)}), Usage({UsageClass.INPUT: 5}), Decimal(0)),
    ],
)
def test_cost_without_the_usage_it_needs_is_unknown_and_not_zero(
    costs: CostList, usage: Usage | None, expected: Decimal | None
) -> None:
    assert cost_usd(costs, usage, served=None, asked="m") == expected
