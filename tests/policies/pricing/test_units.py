"""Price units: where they may be counted, what a value counts, and how a number of them is called."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policies.pricing.units import Count, PriceUnit
from policies.usage.counts import MAX_COUNT

U = PriceUnit


@pytest.mark.parametrize(
    ("unit", "value", "count"),
    [
        (U.ITEM, ["a", "b"], 2),
        (U.ITEM, 3, 3),
        (U.ITEM, "three", None),
        (U.ITEM, True, None),
        (U.TOKEN, 116_000, 116_000),
        (U.TOKEN, -1, None),
        (U.TOKEN, 1.5, None),
        (U.TOKEN, Decimal("1500.0"), 1500),
        (U.TOKEN, Decimal("-0.0"), 0),
        (U.ITEM, 2.0, 2),
        (U.TOKEN, MAX_COUNT + 1, None),
        (U.CHARACTER, "h\u00e9llo", 5),
        (U.CHARACTER, 7, 7),
        (U.SECOND, 12.4, Decimal("12.4")),
        (U.SECOND, "12.4", None),
        (U.USD, 0.1, Decimal("0.1")),
        (U.USD, Decimal("0.00001"), Decimal("0.00001")),
        (U.USD, float("nan"), None),
        (U.USD, float("inf"), None),
        (U.USD, -0.1, None),
        (U.USD, None, None),
    ],
)
def test_unit_counts_what_a_bill_can_be_made_of(unit: PriceUnit, value: object, count: Count | None) -> None:
    assert unit.counted(value) == count


@pytest.mark.parametrize(("seconds", "minutes"), [(0.0, 1), (0.001, 1), (60.0, 1), (60.001, 2), (3600.0, 60)])
def test_unit_of_time_counts_once_it_is_begun(seconds: float, minutes: int) -> None:
    assert U.MINUTE.elapsed(seconds) == minutes


def test_unit_that_is_no_time_has_no_length() -> None:
    assert U.SECOND.elapsed(1.5) == 2
    with pytest.raises(ValueError, match="token is no unit of time"):
        U.TOKEN.elapsed(1.0)


@pytest.mark.parametrize(
    ("unit", "count", "phrase"),
    [
        (U.TOKEN, 1, "1 token"),
        (U.TOKEN, 1500, "1500 tokens"),
        (U.USD, 1, "1 USD"),
        (U.USD, Decimal("0.250"), "0.25 USD"),
        (U.SECOND, Decimal("12.4"), "12.4 seconds"),
    ],
)
def test_unit_phrase_is_singular_for_one(unit: PriceUnit, count: Count, phrase: str) -> None:
    assert unit.phrase(count) == phrase


@pytest.mark.parametrize("unit", PriceUnit)
def test_unit_is_counted_by_a_body_or_a_clock_or_is_the_call(unit: PriceUnit) -> None:
    assert unit.sources or unit.seconds or unit is U.CALL
