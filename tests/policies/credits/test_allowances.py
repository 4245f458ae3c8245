"""No sequence of plan changes creates credits, and none loses more than the difference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.credits.allowances import MAX_PERIOD_CREDITS, period_credits, prorated_credits, refill, remaining_share

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
shares = st.fractions(0, 1)
amounts = st.integers(0, 10**12)


@given(first=amounts, changes=st.lists(st.tuples(amounts, shares), max_size=8))
def test_changes_grant_at_most_the_largest_plan(first: int, changes: list[tuple[int, Fraction]]) -> None:
    total = before = first
    for after, left in sorted(changes, key=lambda change: -change[1]):  # time goes on, so what is left shrinks
        total += prorated_credits(before, after, share=left)
        before = after
    assert total <= max([first, *(amount for amount, _ in changes)])
    assert total > -len(changes) - 1


@given(before=amounts, after=amounts, left=shares)
def test_change_and_back_costs_one_credit_at_most(before: int, after: int, left: Fraction) -> None:
    back = prorated_credits(before, after, share=left) + prorated_credits(after, before, share=left)
    assert back in (-1, 0)


@pytest.mark.parametrize(
    ("passed", "left"),
    [(timedelta(0), 1), (timedelta(days=31), 0), (timedelta(days=-5), 1), (timedelta(days=50), 0)],
)
def test_remaining_share_is_between_0_and_1(passed: timedelta, left: int) -> None:
    assert remaining_share(START, END, now=START + passed) == left


def test_half_a_period_is_half_the_difference() -> None:
    half = remaining_share(START, END, now=START + (END - START) / 2)
    assert prorated_credits(100, 1000, share=half) == 450
    assert prorated_credits(1000, 101, share=half) == -450


def test_seats_have_credits_under_per_seat_pricing() -> None:
    assert period_credits(100, pricing_model="per_seat", quantity=3) == 300
    assert period_credits(100, pricing_model="flat", quantity=3) == 100


def test_credits_of_a_period_stay_where_scripts_are_exact() -> None:
    """Plans that a former release saved, and seats of a plan that gives much."""
    assert period_credits(2**63 - 1, pricing_model="flat", quantity=1) == MAX_PERIOD_CREDITS < 2**53
    assert period_credits(MAX_PERIOD_CREDITS, pricing_model="per_seat", quantity=2**31 - 1) == MAX_PERIOD_CREDITS


def test_trial_credits_never_roll_over() -> None:
    assert refill(5, period_end=END, rolls_over=True).expires_at is None
    assert refill(5, period_end=END, rolls_over=False).expires_at == END
    trial = refill(5, period_end=END, rolls_over=True, is_trial=True)
    assert (trial.source, trial.expires_at) == ("trial", END)
