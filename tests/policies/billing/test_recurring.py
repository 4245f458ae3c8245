"""MRR is what a subscription comes to in a month, and what it was and what moved it add up to what it is."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.billing.invoicing import PriceTier, Pricing
from policies.billing.periods import PeriodLength
from policies.billing.recurring import (
    Movement,
    RollForward,
    Standing,
    monthly,
    movement,
    roll_forward,
    steps_of,
)

FLAT = Pricing("flat", Decimal("100"), "USD")
TIERS = (PriceTier(5, Decimal(10)), PriceTier(None, Decimal(8), Decimal(20)))
MONTH = PeriodLength("month")
BEGIN = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("pricing", "quantity", "period", "expected"),
    [
        (FLAT, 3, MONTH, "100.00"),
        (FLAT, 1, PeriodLength("year"), "8.33"),
        (FLAT, 1, PeriodLength("month", 3), "33.33"),
        (FLAT, 1, PeriodLength("year", 2), "4.17"),
        (FLAT, 1, PeriodLength("day"), "3041.67"),
        (FLAT, 1, PeriodLength("week", 2), "217.26"),
        (Pricing("per_seat", Decimal("9.99"), "USD"), 3, MONTH, "29.97"),
        (Pricing("tiered", Decimal(0), "USD", TIERS), 7, MONTH, "86.00"),
        (Pricing("volume", Decimal(0), "USD", TIERS), 7, MONTH, "76.00"),
        (Pricing("tiered", Decimal(0), "USD", TIERS[:1]), 7, MONTH, "0"),
        (Pricing("usage", Decimal(1), "USD"), 7, MONTH, "0"),
        (Pricing("flat", Decimal(1000), "JPY"), 1, PeriodLength("year"), "83"),
    ],
)
def test_subscription_comes_to_its_share_of_a_year_in_a_month(
    pricing: Pricing, quantity: int, period: PeriodLength, expected: str
) -> None:
    assert monthly(pricing, quantity, period=period) == Decimal(expected)


@pytest.mark.parametrize(
    ("before", "after", "has_paid", "expected"),
    [
        (0, 10, False, Movement.NEW),
        (0, 10, True, Movement.REACTIVATION),
        (10, 20, True, Movement.EXPANSION),
        (20, 10, True, Movement.CONTRACTION),
        (10, 0, True, Movement.CHURN),
        (10, 10, True, None),
        (0, 0, False, None),
    ],
)
def test_movement_is_named_as_the_field_does(
    before: int, after: int, has_paid: bool, expected: Movement | None
) -> None:
    assert movement(Decimal(before), Decimal(after), has_paid=has_paid) is expected


def test_moving_to_another_subscription_within_a_day_is_no_churn() -> None:
    history = [
        Standing("a", BEGIN, "USD", Decimal(10)),
        Standing("a", BEGIN + timedelta(3), "USD", Decimal(0)),
        Standing("b", BEGIN + timedelta(3), "USD", Decimal(25)),
    ]
    found = roll_forward(
        RollForward(opening=Decimal(0), opening_customers=0), (step for _, step in steps_of(history, since=BEGIN))
    )
    assert [found.new, found.expansion, found.churn, found.closing] == [Decimal(each) for each in (10, 15, 0, 25)]
    assert (found.new_customers, found.churned_customers, found.closing_customers) == (1, 0, 1)


def test_account_that_comes_back_was_new_only_once() -> None:
    amounts = [Decimal(each) for each in (10, 0, 15, 0, 20)]
    history = [Standing("a", BEGIN + timedelta(number), "USD", amount) for number, amount in enumerate(amounts)]
    found = roll_forward(
        RollForward(opening=Decimal(0), opening_customers=0), (step for _, step in steps_of(history, since=BEGIN))
    )
    assert [found.new, found.churn, found.reactivation] == [Decimal(each) for each in (10, -25, 35)]
    assert (found.new_customers, found.churned_customers, found.reactivated_customers) == (1, 2, 2)


def test_rates_are_of_what_was_there_at_the_beginning() -> None:
    found = RollForward(
        opening=Decimal(300), contraction=Decimal(-10), churn=Decimal(-50), opening_customers=3, churned_customers=1
    )
    assert (found.customer_churn_rate, found.revenue_churn_rate) == (Decimal("0.3333"), Decimal("0.2000"))
    assert found.arpu("USD") == 120
    nothing = RollForward(opening=Decimal(0), opening_customers=0)
    assert (nothing.customer_churn_rate, nothing.revenue_churn_rate, nothing.arpu("USD")) == (None, None, None)


Histories = st.lists(
    st.lists(
        st.builds(
            Standing,
            st.sampled_from("abc"),
            st.integers(-40, 40).map(lambda days: BEGIN + timedelta(days)),
            st.sampled_from(("USD", "EUR")),
            st.sampled_from([Decimal(0), Decimal("9.99"), Decimal(20)]),
        ),
        max_size=12,
    ).map(lambda found: sorted(found, key=lambda each: each.day)),
    max_size=6,
)


@given(Histories)
def test_opening_and_movements_are_what_subscriptions_come_to_at_the_end(accounts: list[list[Standing]]) -> None:
    opening, closing = (
        [_standings([each for each in history if each.day < until]) for history in accounts]
        for until in (BEGIN, date.max)
    )
    for currency in ("USD", "EUR"):
        steps = [step for each in accounts for of, step in steps_of(each, since=BEGIN) if of == currency]
        at_first = [found[currency] for found in opening]
        begun = RollForward(opening=sum(at_first, Decimal(0)), opening_customers=sum(map(bool, at_first)))
        found, at_last = roll_forward(begun, steps), [found[currency] for found in closing]
        assert (found.closing, found.closing_customers) == (sum(at_last, Decimal(0)), sum(map(bool, at_last)))
        assert min(found.new, found.expansion, found.reactivation, -found.contraction, -found.churn) >= 0
        assert found.new_customers <= len(accounts)


def _standings(history: list[Standing]) -> defaultdict[str, Decimal]:
    """By currency, at the end of the history."""
    last = {each.subscription: each for each in history}
    sums = defaultdict[str, Decimal](Decimal)
    for each in last.values():
        sums[each.currency] += each.mrr
    return sums
