"""Intervals and tests give what is printed in the papers and tables that they come from."""

from __future__ import annotations

import math

import pytest

from policies.experiments.statistics import (
    Interval,
    Sample,
    Share,
    compare_means,
    compare_shares,
    compare_with_expected,
    holm,
    mean_interval,
    t_quantile,
    t_two_sided,
    wilson,
)
from tests.support.sampling import seeded_random


def close(interval: Interval | None, low: float, high: float) -> bool:
    assert interval is not None
    return interval.low == pytest.approx(low, abs=5e-5) and interval.high == pytest.approx(high, abs=5e-5)


# Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_of_a_share_is_wilsons(hits: int, total: int, low: float, high: float) -> None:
    assert close(wilson(Share(hits, total)), low, high)


# Newcombe 1998, Statistics in Medicine 17:873, table II, method 10; there the first less the second.
@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((0, 29), (5, 56), -0.0381, 0.1926),
        ((0, 20), (10, 10), 0.6791, 1.0),
    ],
)
def test_interval_of_a_difference_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert close(compare_shares(Share(*first), Share(*second)).interval, low, high)


# Printed tables of Student's t at 0.975.
@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799), (1e7, 1.95996)],
)
def test_quantiles_of_t_are_those_of_the_tables(freedom: float, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)
    assert t_two_sided(quantile, freedom) == pytest.approx(0.05, abs=5e-5)


def test_tail_of_t_is_the_integral_of_its_density() -> None:
    """By Simpson's rule, which shares nothing with the continued fraction."""
    for freedom in (1.5, 4.0, 17.3, 200.0):
        for t in (0.1, 1.0, 2.7, 6.0):
            scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
            steps = 2000
            width = t / steps
            values = [scale * (1 + (at * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for at in range(steps + 1)]
            inside = width / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))
            assert t_two_sided(t, freedom) == pytest.approx(1 - 2 * inside, abs=1e-9)


def test_means_are_compared_by_welch() -> None:
    """Welch's own formulas, written out."""
    found = compare_means(Sample(10, 20.0, 4.0), Sample(20, 23.0, 9.0))
    error = math.sqrt(0.4 + 0.45)
    freedom = 0.85**2 / (0.4**2 / 9 + 0.45**2 / 19)
    assert found.value == 3.0
    assert found.p_value == pytest.approx(t_two_sided(3 / error, freedom))
    assert close(found.interval, 3 - t_quantile(freedom) * error, 3 + t_quantile(freedom) * error)


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_accounts_give_neither_interval_nor_verdict(size: int) -> None:
    few, many = Sample(size, 1.0, 0.0), Sample(50, 2.0, 1.0)
    assert mean_interval(few) is None
    assert (compare_means(few, many).interval, compare_means(few, many).p_value) == (None, None)
    assert compare_shares(Share(0, 0), Share(3, 9)).p_value is None
    assert compare_shares(Share(1, 1000), Share(3, 1000)).p_value is None  # two expected in each
    assert compare_means(Sample(9, 1.0, 0.0), Sample(9, 1.0, 0.0)).p_value is None


def test_shares_of_sign_ups_are_tested_against_the_weights() -> None:
    even, uneven = compare_with_expected(Share(505, 1000), 0.5), compare_with_expected(Share(560, 1000), 0.5)
    assert even.p_value is not None
    assert even.p_value == pytest.approx(0.7518, abs=5e-5)
    assert uneven.p_value is not None
    assert uneven.p_value < 0.001
    around = wilson(Share(560, 1000))
    assert around is not None
    assert close(uneven.interval, around.low - 0.5, around.high - 0.5)


def test_holm_adjusts_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    drawn = seeded_random("intervals")
    held = 0
    for _ in range(400):
        interval = wilson(Share(sum(drawn.random() < 0.07 for _ in range(300)), 300))
        assert interval is not None
        held += interval.low <= 0.07 <= interval.high
    # 95 % of 400 are 380; the number is binomial with a deviation of 4.4, and 3.5 of them are 15.
    assert 365 <= held <= 395
