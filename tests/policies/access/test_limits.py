"""Clients are told their limits in the fields of the IETF draft, to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.access.limits import (
    STEPS,
    WINDOW_SECONDS,
    WINDOWS,
    Limits,
    limits_of,
    policy_field,
    remaining,
    remaining_template,
)
from policies.model import Plan

ALL = Limits((60, 1000, 20000), 5)


def test_a_plans_limits_are_taken_in_the_order_of_the_windows() -> None:
    plan = Plan(
        "plan_1",
        "pro",
        1,
        {},
        requests_per_minute=1,
        requests_per_hour=2,
        max_api_calls_per_day=3,
        max_concurrent_requests=4,
    )
    assert limits_of(plan) == Limits((1, 2, 3), 4)
    assert limits_of(Plan("plan_1", "free", 1, {})) == Limits((None, None, None), None)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (ALL, b'"minute";q=60;w=60, "hour";q=1000;w=3600, "day";q=20000;w=86400'),
        (Limits((None, 5, None), None), b'"hour";q=5;w=3600'),
        (Limits((0, None, None), None), b'"minute";q=0;w=60'),
        (Limits((None, None, None), 3), b""),
    ],
)
def test_the_policy_field_names_each_limit(limits: Limits, field: bytes) -> None:
    assert policy_field(limits) == field


def test_the_remaining_field_tells_what_is_left_and_for_how_long() -> None:
    left = remaining(ALL, (1, 1000, 5), (61, 3000, 86000))
    assert remaining_template(ALL) % left == b'"minute";r=59;t=61, "hour";r=0;t=3000, "day";r=19995;t=86000'


def test_windows_without_a_limit_are_left_out() -> None:
    limits = Limits((None, 7, None), None)
    assert remaining(limits, (4, 5, 6), (1, 2, 3)) == (2, 2)
    assert remaining_template(limits) % (2, 2) == b'"hour";r=2;t=2'
    assert remaining_template(Limits((None, None, None), 3)) == b""


@given(limit=st.integers(0, 100), used=st.integers(0, 200))
def test_what_remains_is_never_below_zero(limit: int, used: int) -> None:
    """A plan that shrank leaves more used than allowed."""
    assert remaining(Limits((limit, None, None), None), (used, 0, 0), (1, 1, 1)) == (max(0, limit - used), 1)


@given(st.tuples(*[st.none() | st.integers(0, 10**9)] * 3))
def test_the_field_has_a_place_for_each_number(per_window: tuple[int | None, ...]) -> None:
    limits = Limits(per_window, None)
    field = remaining_template(limits) % remaining(limits, (0, 0, 0), (1, 2, 3))
    assert field.count(b";r=") == policy_field(limits).count(b";q=") == 3 - per_window.count(None)


def test_windows_divide_into_whole_steps() -> None:
    assert [WINDOW_SECONDS[window] * 1000 % STEPS for window in WINDOWS] == [0, 0, 0]
