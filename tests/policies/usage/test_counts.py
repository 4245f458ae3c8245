"""Counts: the tree of classes, and reports of one call that merge without summing or losing anything."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.usage.counts import Usage, UsageClass, latest, merge_counts

_counts = st.dictionaries(st.sampled_from(UsageClass), st.integers(0, 10**9))


@pytest.mark.parametrize("kind", UsageClass)
def test_class_is_contained_in_input_or_output(kind: UsageClass) -> None:
    root = kind
    while root.parent is not None:
        root = root.parent
    assert root in (UsageClass.INPUT, UsageClass.OUTPUT)


def test_hour_long_cache_write_is_a_cache_write() -> None:
    assert UsageClass.CACHE_WRITE_1H.parent is UsageClass.CACHE_WRITE
    assert UsageClass.CACHE_WRITE.parent is UsageClass.INPUT


def test_total_adds_roots_alone() -> None:
    counts = {UsageClass.INPUT: 100, UsageClass.CACHED_INPUT: 90, UsageClass.OUTPUT: 20, UsageClass.REASONING: 15}
    assert Usage(counts).total == 120


def test_total_of_nothing_reported_is_unknown() -> None:
    assert Usage().total is None
    assert Usage({UsageClass.OUTPUT: 0}).total == 0


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (None, 5, 5),
        (5, None, 5),
        (5, 7, 7),
        (7, 5, 5),
        (7, 0, 7),
        (0, 0, 0),
        (0, 7, 7),
        (Decimal("1.5"), 0, Decimal("1.5")),
        ({"a": 1, "b": 2}, {"b": 0, "c": None}, {"a": 1, "b": 2, "c": None}),
        ({"a": {"b": 3}}, {"a": {"b": None, "c": 1}}, {"a": {"b": 3, "c": 1}}),
        ({"a": 1}, 5, {"a": 1}),
        ("x", "y", "y"),
        (True, False, False),
    ],
)
def test_latest_value_wins_unless_it_says_less_than_nothing(earlier: object, later: object, expected: object) -> None:
    assert latest(earlier, later) == expected


@given(_counts, _counts)
@settings(derandomize=True)
def test_merge_keeps_every_reported_class(earlier: dict[UsageClass, int], later: dict[UsageClass, int]) -> None:
    merged = merge_counts(earlier, later)
    assert merged.keys() == earlier.keys() | later.keys()
    assert all(merged[kind] == count for kind, count in later.items() if count)
    assert all(merged[kind] >= 0 for kind in merged)


@given(_counts)
@settings(derandomize=True)
def test_merge_of_a_repeated_report_sums_nothing(counts: dict[UsageClass, int]) -> None:
    usage = Usage(counts, Decimal("1.5"), Decimal("0.01"))
    assert usage.merged(usage) == usage


def test_merged_usage_completes_an_earlier_report() -> None:
    opening = Usage({UsageClass.INPUT: 100, UsageClass.OUTPUT: 1})
    closing = Usage({UsageClass.INPUT: 0, UsageClass.OUTPUT: 700}, cost_usd=Decimal("0.2"))
    assert opening.merged(closing) == Usage({UsageClass.INPUT: 100, UsageClass.OUTPUT: 700}, cost_usd=Decimal("0.2"))
