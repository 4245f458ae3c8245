"""Each account has one variant, by its weight, which nothing but the salt changes."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from policies.experiments.assignment import POINTS, Arms, Variant, assign, bounds, point, problem

ACCOUNTS = [UUID(int=number) for number in range(4000)]


def arms(*weights: int, salt: str = "salt") -> Arms:
    return Arms(salt, tuple(Variant(f"v{at}", weight, (f"plan-{at}",)) for at, weight in enumerate(weights)))


def test_variants_get_accounts_by_weight() -> None:
    counted = Counter(assign(arms(1, 2, 1), account).name for account in ACCOUNTS)
    # Binomial: 3.5 deviations of 4,000 accounts are about 100.
    assert counted["v0"] == pytest.approx(1000, abs=100)
    assert counted["v1"] == pytest.approx(2000, abs=110)
    assert counted["v2"] == pytest.approx(1000, abs=100)


def test_account_keeps_its_variant_and_another_salt_shares_out_anew() -> None:
    first = [assign(arms(1, 1), account).name for account in ACCOUNTS]
    assert first == [assign(arms(1, 1), account).name for account in ACCOUNTS]
    second = [assign(arms(1, 1, salt="other"), account).name for account in ACCOUNTS]
    assert sum(a == b for a, b in zip(first, second, strict=True)) == pytest.approx(2000, abs=110)


def test_points_cover_their_range() -> None:
    points = [point("s", account) for account in ACCOUNTS]
    assert min(points) < POINTS // 100 < 99 * POINTS // 100 < max(points) < POINTS
    assert bounds(arms(1, 1, 2).variants) == (POINTS // 4, POINTS // 2)


def test_account_is_not_offered_what_only_others_are() -> None:
    shared = Arms("s", (Variant("a", 1, ("basic", "pro")), Variant("b", 1, ("basic", "pro-2"))))
    assert shared.hidden_from(shared.variants[0]) == {"pro-2"}
    assert shared.hidden_from(shared.variants[1]) == {"pro"}
    assert shared.control.name == "a"


@pytest.mark.parametrize(
    ("variants", "wrong"),
    [
        ((Variant("a", 1, ("pro",)),), "2 to 6 variants"),
        ((Variant("a", 1, ("pro",)), Variant("a", 1, ("basic",))), "the same name"),
        ((Variant("a", 1, ("pro",)), Variant("b", 1, ())), "offers a plan"),
        ((Variant("a", 1, ("pro",)), Variant("b", 0, ("basic",))), "1 or more"),
    ],
)
def test_variants_that_make_no_experiment_are_refused(variants: tuple[Variant, ...], wrong: str) -> None:
    assert wrong in (problem(variants) or "")
