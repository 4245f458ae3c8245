"""A call costs its price, rounded up once; what it is charged in the end depends on how it ended."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model import Outcome, Refusal, Refused, Route
from policies.pricing.json_pointer import ABSENT
from policies.pricing.price import Price
from policies.pricing.prices import (
    check_batch,
    cost,
    hold,
    units_in_request,
)
from policies.pricing.quotes import required_balance
from policies.pricing.units import MAX_ITEMS, CountSource, PriceUnit
from policies.usage.counts import MAX_COUNT

ONE = Decimal(1)
CREDITS = st.decimals(min_value=0, max_value=1000, places=6)
O = Outcome  # noqa: E741 - the tables below are read by column


def _route(price: Price, *charge_on: str) -> Route:
    route = Route("r", "/r", frozenset({"POST"}), "u", "analysis", price)
    return replace(route, charge_on=frozenset(charge_on)) if charge_on else route


@pytest.mark.parametrize(
    ("price", "units", "credits"),
    [
        (Price(Decimal("0.1")), 1, 1),
        (Price(Decimal("0.1")), 10, 1),  # in binary it would be 1.0000000000000002 and cost 2
        (Price(Decimal("0.1")), 11, 2),
        (Price(Decimal("0.3")), 10, 3),
        (Price(Decimal(2), PriceUnit.ITEM, source=CountSource.REQUEST), 0, 0),
        (Price(Decimal(2), PriceUnit.ITEM, source=CountSource.REQUEST, minimum=5), 0, 5),
        (Price(Decimal(2), PriceUnit.ITEM, source=CountSource.REQUEST, minimum=5), 2, 5),
        (Price(Decimal(2), PriceUnit.ITEM, source=CountSource.REQUEST, minimum=5), 3, 6),
        (Price(Decimal(1), PriceUnit.TOKEN, unit_size=1000), 1, 1),
        (Price(Decimal(1), PriceUnit.TOKEN, unit_size=1000), 1000, 1),
        (Price(Decimal(1), PriceUnit.TOKEN, unit_size=1000), 1001, 2),
        (Price(Decimal("0.5"), PriceUnit.TOKEN, unit_size=3), 6, 1),
        (Price(Decimal(0)), 10**9, 0),
    ],
)
def test_a_cost_is_rounded_up_once(price: Price, units: int, credits: int) -> None:
    assert cost(price, units) == credits


@given(credits=CREDITS, units=st.integers(0, 10**9), unit_size=st.integers(1, 10**6), minimum=st.integers(0, 50))
def test_a_cost_is_the_least_whole_number_not_below_the_exact_one(
    credits: Decimal, units: int, unit_size: int, minimum: int
) -> None:
    exact = Fraction(credits) * units / unit_size
    assert cost(Price(credits, PriceUnit.TOKEN, unit_size, minimum=minimum), units) == max(minimum, -(-exact // 1))


@pytest.mark.parametrize(
    ("price", "items", "held"),
    [
        (Price(Decimal("1.5")), None, 2),
        (Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST), 7, 7),
        (Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST), None, 0),
        (Price(ONE, PriceUnit.TOKEN, 1000, hold=20), None, 20),
        (Price(ONE, PriceUnit.TOKEN, hold=20, maximum=8), None, 8),
        (Price(ONE, PriceUnit.TOKEN, 1000, hold=0), None, 0),
        (Price(Decimal(3), PriceUnit.TOKEN, 1000), None, 3),
        (Price(Decimal(2), PriceUnit.MINUTE), None, 2),
    ],
)
def test_a_hold_is_the_price_where_it_is_known(price: Price, items: int | None, held: int) -> None:
    assert hold(price, items) == held


@pytest.mark.parametrize(
    ("price", "held", "balance"),
    [
        (Price(ONE), 1, 1),
        (Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST), 7, 7),
        (Price(ONE, PriceUnit.TOKEN, hold=0), 0, 1),  # a priced call needs something
        (Price(Decimal(0)), 0, 0),
        (Price(Decimal(0), minimum=2), 2, 2),
    ],
)
def test_a_priced_call_needs_credits_and_a_free_one_none(price: Price, held: int, balance: int) -> None:
    assert required_balance(held, is_free=price.is_free) == balance
    assert price.is_free is (balance == 0)


@pytest.mark.parametrize("max_items", [None, 5, 6])
def test_a_batch_within_the_plan_passes(max_items: int | None) -> None:
    check_batch(5, max_items)


def test_a_batch_too_large_is_told_the_limit() -> None:
    with pytest.raises(Refused) as refused:
        check_batch(6, 5)
    assert (refused.value.code, refused.value.extras) == (Refusal.BATCH_TOO_LARGE, {"max_items": 5, "items": 6})


ITEMS = Price(ONE, PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/n",))


@pytest.mark.parametrize(("found", "units"), [([], 0), ([1, 2], 2), (0, 0), (17, 17), (MAX_ITEMS, MAX_ITEMS)])
def test_request_units_are_the_length_of_an_array_or_the_number_itself(found: object, units: int) -> None:
    assert units_in_request(ITEMS, found) == units


@pytest.mark.parametrize("found", [True, False, -1, 1.5, "3", None, {"a": 1}, MAX_ITEMS + 1, MAX_COUNT + 1])
def test_request_units_that_cannot_be_counted_are_refused(found: object) -> None:
    with pytest.raises(Refused, match=f"up to {MAX_ITEMS} at '/n'; there is something else") as refused:
        units_in_request(replace(ITEMS, default=1), found)
    assert (refused.value.code, refused.value.extras) == (Refusal.INVALID_BODY, {"pointer": "/n"})


def test_request_units_that_are_absent_are_the_default_or_refused() -> None:
    assert units_in_request(replace(ITEMS, default=1), ABSENT) == 1
    with pytest.raises(Refused, match="there is nothing"):
        units_in_request(ITEMS, ABSENT)
