"""What is billed below zero is what calls used, each credit once; tiers price usage as they price seats."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.billing.invoicing import PriceTier, Pricing, lines_of
from policies.billing.overage import Overage, billable, objection, overage_line

AMOUNT = st.decimals(0, 10, places=3)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[PriceTier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 1000), max_size=4)))
    return tuple(PriceTier(up_to, draw(AMOUNT), draw(AMOUNT)) for up_to in [*bounds, None])


def price_of(used: int, found: tuple[PriceTier, ...], mode: str) -> Decimal:
    """Unit by unit, as one would count on fingers."""
    total, reached = Decimal(0), set()
    for unit in range(1, used + 1):
        priced = used if mode == "volume" else unit
        number = next(n for n, tier in enumerate(found) if tier.up_to is None or priced <= tier.up_to)
        total += found[number].unit_price
        reached.add(number)
    return total + sum(found[number].flat_price for number in reached)


@given(used=st.integers(0, 1200), found=tiers(), mode=st.sampled_from(["graduated", "volume"]))
def test_usage_tiers_cost_what_each_unit_costs(used: int, found: tuple[PriceTier, ...], mode: str) -> None:
    lines = lines_of(Pricing("usage", Decimal(0), "USD", found, mode), used, description="x")
    asked = sum((line.amount for line in lines), Decimal(0))
    # Each line is rounded once, half to even.
    assert abs(asked - price_of(used, found, mode)) <= Decimal("0.005") * max(1, len(lines))
    assert sum(line.quantity for line in lines) == used


@given(used=st.integers(0, 1200), found=tiers())
def test_usage_and_seats_have_the_same_tiers(used: int, found: tuple[PriceTier, ...]) -> None:
    for seats, mode in (("tiered", "graduated"), ("volume", "volume")):
        of_usage = lines_of(Pricing("usage", Decimal(7), "USD", found, mode), used, description="x")
        assert of_usage == lines_of(Pricing(seats, Decimal(7), "USD", found), used, description="x")


def test_usage_tiers_are_graduated_unless_told_otherwise() -> None:
    found = (PriceTier(10, Decimal("0.10")), PriceTier(None, Decimal("0.05")))
    (first, second) = lines_of(Pricing("usage", Decimal(0), "USD", found), 30, description="x")
    assert (first.amount, second.amount) == (Decimal("1.00"), Decimal("1.00"))


@given(
    grant=st.integers(0, 50),
    debt=st.integers(0, 50),
    uses=st.lists(st.integers(0, 60), min_size=1, max_size=12),
)
def test_all_usage_is_paid_by_grants_or_billed_once(grant: int, debt: int, uses: list[int]) -> None:
    """`debt` is what a refund left: nobody used it, so it is never billed."""
    balance, billed, paid = -debt, 0, 0
    for used in uses:
        balance += grant
        paid += grant
        balance -= used
        due = billable(balance, used)
        billed, balance = billed + due, balance + due
        assert balance >= -debt or due == used
        expired = max(0, balance)
        balance, paid = balance - expired, paid - expired
    assert paid + billed == sum(uses) + debt + balance
    assert billed <= sum(uses)


def test_overage_is_rounded_once_to_the_currency() -> None:
    line = overage_line(1234, price=Decimal("0.002"), currency="USD", name="Pro")
    assert (line.quantity, line.unit_price, line.amount) == (1234, Decimal("0.002"), Decimal("2.47"))


@pytest.mark.parametrize(
    ("model", "price", "is_fine"),
    [("flat", "0.002", True), ("flat", None, False), ("usage", None, True), ("usage", "0.002", False)],
)
def test_overage_has_a_price_unless_all_usage_has_one(model: str, price: str | None, is_fine: bool) -> None:
    found = Overage(100, None if price is None else Decimal(price))
    assert (objection(found, pricing_model=model) is None) is is_fine
    assert objection(None, pricing_model=model) is None
