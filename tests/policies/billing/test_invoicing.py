"""Invoice arithmetic: worked examples of every pricing model, and properties of all amounts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.billing.invoicing import (
    Line,
    Period,
    PriceTier,
    Pricing,
    credit_note,
    lines_of,
    remaining,
    share,
    totals,
    unused,
)
from policies.billing.money import exponent, from_minor, rounded, to_minor

JUNE = Period(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
# 1 to 10 at 5.00; 11 to 30 at 4.00 and 10.00 once; the rest at 2.50 and 20.00 once.
TIERS = (
    PriceTier(10, Decimal("5.00")),
    PriceTier(30, Decimal("4.00"), Decimal("10.00")),
    PriceTier(None, Decimal("2.50"), Decimal("20.00")),
)


def amounts(model: str, price: str, quantity: int, *, currency: str = "USD", tiers: tuple[PriceTier, ...] = ()) -> str:
    lines = lines_of(Pricing(model, Decimal(price), currency, tiers), quantity, description="Plan")
    return " + ".join(str(line.amount) for line in lines)


@pytest.mark.parametrize(
    ("model", "price", "quantity", "currency", "expected"),
    [
        ("flat", "29.99", 1, "USD", "29.99"),
        ("flat", "29.99", 7, "USD", "29.99"),
        ("flat", "0", 1, "USD", "0.00"),
        ("flat", "3000", 1, "JPY", "3000"),
        ("flat", "9.125", 1, "KWD", "9.125"),
        ("per_seat", "9.99", 0, "USD", "0.00"),
        ("per_seat", "9.99", 3, "USD", "29.97"),
        ("per_seat", "1500", 3, "JPY", "4500"),
        ("per_seat", "1.5005", 3, "KWD", "4.502"),  # 4.5015, half to even
        ("usage", "0.0025", 0, "USD", "0.00"),
        ("usage", "0.0025", 1000, "USD", "2.50"),
        ("usage", "0.005", 1, "USD", "0.00"),  # half a cent, to even
        ("usage", "0.005", 3, "USD", "0.02"),  # one and a half, to even
        ("usage", "0.005", 5, "USD", "0.02"),  # two and a half, to even
        ("usage", "0.5", 5, "JPY", "2"),
        ("usage", "0.5", 7, "JPY", "4"),
        ("usage", "0.0005", 5, "KWD", "0.002"),
    ],
)
def test_plan_costs_what_its_pricing_model_says(
    model: str, price: str, quantity: int, currency: str, expected: str
) -> None:
    assert amounts(model, price, quantity, currency=currency) == expected


@pytest.mark.parametrize(
    ("quantity", "graduated", "volume"),
    [
        (0, "", ""),
        (1, "5.00", "5.00"),
        (10, "50.00", "50.00"),
        (11, "50.00 + 14.00", "54.00"),
        (30, "50.00 + 90.00", "130.00"),
        (31, "50.00 + 90.00 + 22.50", "97.50"),
        (100, "50.00 + 90.00 + 195.00", "270.00"),
    ],
)
def test_tiers_are_priced_graduated_or_by_volume(quantity: int, graduated: str, volume: str) -> None:
    assert amounts("tiered", "0", quantity, tiers=TIERS) == graduated
    assert amounts("volume", "0", quantity, tiers=TIERS) == volume


@pytest.mark.parametrize("model", ["tiered", "volume"])
def test_quantity_beyond_the_last_tier_is_an_error(model: str) -> None:
    with pytest.raises(ValueError, match="no tier reaches 11"):
        amounts(model, "0", 11, tiers=TIERS[:1])


@pytest.mark.parametrize(
    ("amount", "currency", "first_day", "last_day", "expected"),
    [
        ("30.00", "USD", 1, 31, "30.00"),
        ("30.00", "USD", 1, 2, "1.00"),
        ("29.99", "USD", 1, 16, "15.00"),  # 14.995, half to even
        ("29.99", "USD", 16, 31, "14.99"),  # and the other half is the rest
        ("1000", "JPY", 1, 11, "333"),
        ("1000", "JPY", 11, 21, "334"),
        ("1000", "JPY", 21, 31, "333"),
        ("10.000", "KWD", 1, 11, "3.333"),
        ("10.00", "USD", 5, 5, "0.00"),
    ],
)
def test_part_of_a_period_costs_its_share(
    amount: str, currency: str, first_day: int, last_day: int, expected: str
) -> None:
    part = Period(*(JUNE.start + timedelta(days=day - 1) for day in (first_day, last_day)))
    assert str(share(Decimal(amount), JUNE, part, currency=currency)) == expected


# On 11 June, with two thirds of the month left: plan and quantity before and after, and the charges.
CHANGES = [
    (("flat", "9.99", 1), ("flat", "29.99", 1), "USD", ["-6.66"], ["19.99"]),
    (("flat", "29.99", 1), ("flat", "9.99", 1), "USD", ["-19.99"], ["6.66"]),
    (("flat", "0", 1), ("flat", "29.99", 1), "USD", [], ["19.99"]),
    (("flat", "29.99", 1), ("flat", "0", 1), "USD", ["-19.99"], []),
    (("flat", "29.99", 2), ("flat", "29.99", 5), "USD", ["-19.99"], ["19.99"]),
    (("per_seat", "9.99", 3), ("per_seat", "9.99", 5), "USD", ["-19.98"], ["33.30"]),
    (("per_seat", "9.99", 5), ("per_seat", "9.99", 3), "USD", ["-33.30"], ["19.98"]),
    (("per_seat", "0.03", 1), ("per_seat", "0.03", 2), "USD", ["-0.02"], ["0.04"]),
    (("per_seat", "1000", 1), ("per_seat", "1000", 2), "JPY", ["-667"], ["1333"]),
    (("per_seat", "9.125", 1), ("per_seat", "9.125", 3), "KWD", ["-6.083"], ["18.250"]),
    (("tiered", "0", 11), ("tiered", "0", 31), "USD", ["-33.33", "-9.33"], ["33.33", "60.00", "15.00"]),
    (("volume", "0", 11), ("volume", "0", 31), "USD", ["-36.00"], ["65.00"]),
]


@pytest.mark.parametrize(("old", "new", "currency", "back", "due"), CHANGES)
def test_change_credits_the_rest_of_the_old_and_charges_the_rest_of_the_new(
    old: tuple[str, str, int], new: tuple[str, str, int], currency: str, back: list[str], due: list[str]
) -> None:
    at = JUNE.start + timedelta(days=10)
    had, has = (
        lines_of(Pricing(model, Decimal(price), currency, TIERS), quantity, description="Plan")
        for model, price, quantity in (old, new)
    )
    assert [str(line.amount) for line in unused(had, period=JUNE, at=at, currency=currency)] == back
    assert [str(line.amount) for line in remaining(has, period=JUNE, at=at, currency=currency)] == due


def test_line_of_a_change_names_its_time() -> None:
    (line,) = unused([Line("Basic", 1, None, Decimal("9.99"))], period=JUNE, at=JUNE.start, currency="USD")
    assert (line.description, str(line.amount)) == ("Unused time, 2026-06-01 to 2026-07-01: Basic", "-9.99")


@pytest.mark.parametrize(
    ("amount", "rate", "currency", "expected"),
    [
        ("29.99", "0", "USD", ("29.99", "0.00", "29.99")),
        ("29.99", "0.19", "EUR", ("29.99", "5.70", "35.69")),
        ("0.50", "0.05", "USD", ("0.50", "0.02", "0.52")),  # 0.025, half to even
        ("1050", "0.10", "JPY", ("1050", "105", "1155")),
        ("105", "0.10", "JPY", ("105", "10", "115")),  # 10.5, half to even
        ("1.005", "0.1", "KWD", ("1.005", "0.100", "1.105")),
        ("-6.66", "0.19", "EUR", ("-6.66", "-1.27", "-7.93")),
    ],
)
def test_tax_is_on_the_subtotal_rounded_once(
    amount: str, rate: str, currency: str, expected: tuple[str, str, str]
) -> None:
    found = totals([Line("x", 1, None, Decimal(amount))], tax_rate=Decimal(rate), currency=currency)
    assert (str(found.subtotal), str(found.tax), str(found.total)) == expected


@pytest.mark.parametrize(
    ("currency", "amount", "minor"), [("USD", "29.99", 2999), ("JPY", "3000", 3000), ("KWD", "9.125", 9125)]
)
def test_minor_units_are_those_of_the_currency(currency: str, amount: str, minor: int) -> None:
    assert to_minor(Decimal(amount), currency) == minor
    assert from_minor(minor, currency) == Decimal(amount)


def test_fraction_of_a_minor_unit_cannot_be_charged() -> None:
    with pytest.raises(ValueError, match="whole number of minor units"):
        to_minor(Decimal("0.5"), "JPY")


CURRENCIES = st.sampled_from(["USD", "EUR", "JPY", "KWD", "CLF"])
PRICES = st.decimals(min_value=0, max_value=10_000, places=4)


@st.composite
def rising_tiers(draw: st.DrawFn) -> tuple[PriceTier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 1000), max_size=4)))
    return tuple(PriceTier(bound, draw(PRICES), draw(PRICES)) for bound in (*bounds, None))


@st.composite
def pricings(draw: st.DrawFn) -> Pricing:
    model = draw(st.sampled_from(["flat", "per_seat", "tiered", "volume", "usage"]))
    return Pricing(model, draw(PRICES), draw(CURRENCIES), draw(rising_tiers()))


@given(pricings(), st.integers(0, 2000), st.decimals(min_value=0, max_value=1, places=4))
def test_lines_add_up_to_the_total(pricing: Pricing, quantity: int, tax_rate: Decimal) -> None:
    lines = lines_of(pricing, quantity, description="Plan")
    found = totals(lines, tax_rate=tax_rate, currency=pricing.currency)
    assert found.subtotal == sum(line.amount for line in lines)
    assert found.total == found.subtotal + found.tax
    assert all(line.amount == rounded(line.amount, pricing.currency) for line in lines)
    assert all(value.as_tuple().exponent == -exponent(pricing.currency) for value in (found.tax, found.total))


@given(pricings(), st.integers(0, 2000), st.decimals(min_value=0, max_value=1, places=4))
def test_credit_note_reverses_the_whole_invoice(pricing: Pricing, quantity: int, tax_rate: Decimal) -> None:
    lines = lines_of(pricing, quantity, description="Plan")
    asked, given_back = (
        totals(each, tax_rate=tax_rate, currency=pricing.currency) for each in (lines, credit_note(lines))
    )
    assert asked.total + given_back.total == 0


@given(rising_tiers(), CURRENCIES, st.integers(0, 1500), st.integers(0, 500))
def test_graduated_tiers_never_make_more_units_cheaper(
    tiers: tuple[PriceTier, ...], currency: str, quantity: int, more: int
) -> None:
    less_and_more = (
        sum(line.amount for line in lines_of(Pricing("tiered", Decimal(0), currency, tiers), units, description="Plan"))
        for units in (quantity, quantity + more)
    )
    less, greater = less_and_more
    assert less <= greater


@given(PRICES, CURRENCIES, st.lists(st.integers(0, 30 * 86_400), max_size=8))
def test_parts_of_a_period_add_up_to_its_price(price: Decimal, currency: str, cuts: list[int]) -> None:
    amount = rounded(price, currency)
    instants = [JUNE.start, *(JUNE.start + timedelta(seconds=cut) for cut in sorted(cuts)), JUNE.end]
    shares = [share(amount, JUNE, Period(*span), currency=currency) for span in pairwise(instants)]
    assert sum(shares) == amount
    assert all(part >= 0 for part in shares)
    assert share(amount, JUNE, JUNE, currency=currency) == amount


@given(PRICES, PRICES, CURRENCIES, st.integers(0, 30 * 86_400))
def test_change_costs_between_the_two_plans(old: Decimal, new: Decimal, currency: str, second: int) -> None:
    had, has = (lines_of(Pricing("flat", price, currency), 1, description="Plan") for price in (old, new))
    at = JUNE.start + timedelta(seconds=second)
    lines = (
        *had,
        *unused(had, period=JUNE, at=at, currency=currency),
        *remaining(has, period=JUNE, at=at, currency=currency),
    )
    asked = sum(line.amount for line in lines)
    cheaper, dearer = sorted((had[0].amount, has[0].amount))
    assert cheaper <= asked <= dearer
