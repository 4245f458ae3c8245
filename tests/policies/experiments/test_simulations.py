"""Simulated experiments: alike variants seldom seem to differ, and a true difference is found.

The accounts have what accounts have: few pay, money comes in the steps of the plans, usage has a long tail. Each run
shares the same accounts out by a salt of its own, so the variants of an A/A experiment differ by chance alone.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import pytest

from policies.experiments.assignment import Arms, Variant, bounds, point
from policies.experiments.comparison import Comparison, Metric, Outcome, Sums, compare
from tests.support.sampling import IS_FULL, seeded_random

ACCOUNTS = 10_000
RUNS = 1_000 if IS_FULL else 100
TRUE_RUNS = 100 if IS_FULL else 10
# A report errs once in 100 times at most. Of 100 such reports more than 5 err once in 2,000 times, and of 1,000 more
# than 21. At once in 20 times, more than 5 of 100 would in every third hundred.
MOST_WRONG = 21 if IS_FULL else 5
VARIANTS = (Variant("control", 1, ("pro",)), Variant("other", 1, ("pro-2",)))


class Account(NamedTuple):
    id: str
    is_new: bool
    cents: int
    used: int


@pytest.fixture(scope="module")
def accounts() -> list[Account]:
    drawn = seeded_random("accounts")

    def account() -> Account:
        cents = drawn.choice((999, 2999, 2999, 9999)) if drawn.random() < 0.06 else 0
        return Account(
            str(UUID(int=drawn.getrandbits(128))), drawn.random() < 0.7, cents, int(drawn.lognormvariate(3, 1.5))
        )

    return [account() for _ in range(ACCOUNTS)]


@pytest.fixture(scope="module")
def runs(accounts: list[Account]) -> list[tuple[Comparison, ...]]:
    return [_run(accounts, salt=f"a/a {run}") for run in range(RUNS)]


def test_variants_that_are_alike_do_not_seem_to_differ(runs: list[tuple[Comparison, ...]]) -> None:
    """In at least 95 of 100 runs over 10,000 accounts, whichever hundred is asked."""
    wrong = sum(any(each.is_significant for each in run) for run in runs)
    assert wrong <= MOST_WRONG, f"{wrong} of {RUNS} runs find a difference"


def test_each_comparison_errs_as_often_as_it_says(runs: list[tuple[Comparison, ...]]) -> None:
    """Before Holm: too many or too few p-values below 0.3 would tell a test that does not fit the accounts."""
    below = dict.fromkeys(Metric, 0)
    for each in (comparison for run in runs for comparison in run):
        assert each.difference.p_value is not None
        below[each.metric] += each.difference.p_value < 0.3
    # Binomial: 3.5 standard deviations to either side are left once in 2,000 times.
    reach = 3.5 * (RUNS * 0.3 * 0.7) ** 0.5
    assert {metric: count for metric, count in below.items() if abs(count - 0.3 * RUNS) > reach} == {}


def test_true_difference_is_found_for_what_it_is(accounts: list[Account]) -> None:
    """Half as many again of those in the variant pay: in each run the conversion differs, and usage does not."""
    found, held = dict.fromkeys(Metric, 0), 0
    for run in range(TRUE_RUNS):
        for each in _run(accounts, salt=f"a/b {run}", lift=Decimal("0.5")):
            found[each.metric] += each.is_significant
            if each.metric is Metric.CONVERSION:
                assert each.difference.interval is not None
                held += each.difference.interval.low < 0.03 < each.difference.interval.high
    # The difference is 5.7 of its deviations, and 3.0 are significant: one of 300 runs misses it.
    assert found[Metric.CONVERSION] >= 0.97 * TRUE_RUNS
    assert held >= 0.8 * TRUE_RUNS  # of intervals of 95 %
    assert max(found[Metric.SIGN_UPS], found[Metric.USAGE]) <= MOST_WRONG // 5 + TRUE_RUNS // 25


def _run(accounts: list[Account], *, salt: str, lift: Decimal = Decimal(0)) -> tuple[Comparison, ...]:
    """Of accounts that do not pay, so many of those in the variant do as makes its conversion higher by `lift`."""
    arms = Arms(salt, VARIANTS)
    (end,) = bounds(arms.variants)
    drawn = random.Random(salt)  # noqa: S311 - to be replayed
    chance = float(lift) * 0.06 / 0.94
    counted = {variant.name: [0] * 7 for variant in VARIANTS}
    control, other = counted.values()
    for each in accounts:
        is_other = point(salt, each.id) >= end
        sums = other if is_other else control
        cents = 2999 if chance and is_other and not each.cents and drawn.random() < chance else each.cents
        sums[0] += 1
        sums[1] += each.is_new
        if cents:
            sums[2] += 1
            sums[3] += cents
            sums[4] += cents * cents
        sums[5] += each.used
        sums[6] += each.used * each.used
    outcomes = {name: _outcome(sums) for name, sums in counted.items()}
    return compare(outcomes, {variant.name: variant.weight for variant in VARIANTS})


def _outcome(sums: list[int]) -> Outcome:
    accounts, sign_ups, paid, cents, of_cents, used, of_used = sums
    money = Sums(Decimal(cents) / 100, Decimal(of_cents) / 10_000)
    usage = Sums(Decimal(used), Decimal(of_used))
    return Outcome(accounts=accounts, sign_ups=sign_ups, paid=paid, credits_used=usage, revenue={"USD": money})
