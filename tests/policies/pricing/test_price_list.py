"""Prices by model and class: what a call costs by its counts, and what is held for it before."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model import Plan
from policies.pricing.model_costs import Flag, completed, cost, explain, is_reported
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.quotes import DEFAULT_MAX_OUTPUT, ModelRequest, estimated_hold
from policies.pricing.units import PriceUnit
from policies.usage.counts import PARENTS, Usage, UsageClass

C = UsageClass
TERRA = ModelPrice(
    {C.INPUT: Decimal(2600000), C.CACHED_INPUT: Decimal(260000), C.OUTPUT: Decimal(15600000)},
    above=((272000, {C.INPUT: Decimal(5200000), C.CACHED_INPUT: Decimal(520000), C.OUTPUT: Decimal(23400000)}),),
    feature="frontier",
    max_output=128000,
)
LUNA = ModelPrice({C.INPUT: Decimal(260000), C.OUTPUT: Decimal(1560000)})
LIST = PriceList(
    "openai", ReaderName.OPENAI, {"gpt-terra": TERRA, "gpt-luna*": LUNA, "gpt*": TERRA}, unit_size=10**6, minimum=1
)
PLAN = Plan("pro", "Pro", 1, {})


def _usage(**counts: int) -> Usage:
    return Usage({C(name): count for name, count in counts.items()})


@pytest.mark.parametrize(
    ("price", "usage", "credits"),
    [
        (TERRA, _usage(input=1000, output=100), 2600 + 1560),
        (TERRA, _usage(input=10_000, cached_input=9_000, output=100), 2600 + 2340 + 1560),
        (TERRA, _usage(input=1000, output=100, reasoning=80), 2600 + 1560),  # priced as its parent
        (TERRA, _usage(input=272_000, output=0), 707_200),
        (TERRA, _usage(input=272_001, output=1), 1_414_406 + 23),  # 1,414,405.2 + 23.4
        (LUNA, _usage(input=150_000, output=20), 39_000 + 32),
        (LUNA, _usage(), 1),
    ],
)
def test_cost_prices_each_class_at_its_own_rate(price: ModelPrice, usage: Usage, credits: int) -> None:
    assert cost(LIST, price, usage).credits == credits


def test_cost_is_explained_class_by_class() -> None:
    found = cost(LIST, TERRA, _usage(input=10_000, cached_input=9_000, output=100))
    assert explain(LIST, found) == (
        "9000 cached_input at 260000 + 1000 input at 2600000 + 100 output at 15600000 per 1000000 tokens, at least 1"
    )


def test_cost_cuts_a_child_to_its_parent_and_flags_it() -> None:
    found = cost(LIST, TERRA, _usage(input=100, cached_input=5000, output=0))
    assert (found.credits, found.flags) == (26, (Flag.CHILD_ABOVE_PARENT,))


def test_cost_above_the_maximum_is_cut_and_flagged() -> None:
    capped = PriceList("l", ReaderName.OPENAI, {"m": LUNA}, maximum=50)
    found = cost(capped, LUNA, _usage(input=10**12 - 1))
    assert (found.credits, found.flags) == (50, (Flag.MAXIMUM_REACHED,))


RATES = st.dictionaries(st.sampled_from(C), st.decimals(0, 100, places=3), min_size=1)
COUNTS = st.dictionaries(st.sampled_from(C), st.integers(0, 10**6))


@given(rates=RATES, counts=COUNTS, size=st.sampled_from([1, 3, 1000, 10**6]))
def test_cost_of_consistent_counts_is_the_sum_over_single_tokens(
    rates: dict[UsageClass, Decimal], counts: dict[UsageClass, int], size: int
) -> None:
    own = dict(counts)
    inclusive: dict[UsageClass, int] = {}
    for kind in reversed(list(C)):  # children stand behind their parents
        inclusive[kind] = own.get(kind, 0) + sum(inclusive[child] for child in inclusive if PARENTS[child] is kind)
    found = cost(PriceList("l", ReaderName.OPENAI, {}, unit_size=size), ModelPrice(rates), Usage(inclusive))
    exact = sum((Fraction(_rate(rates, kind)) * count for kind, count in own.items()), Fraction(0)) / size
    assert not found.flags
    assert found.credits == -(-exact // 1)


def _rate(rates: dict[UsageClass, Decimal], kind: UsageClass | None) -> Decimal:
    return Decimal(0) if kind is None else rates[kind] if kind in rates else _rate(rates, PARENTS[kind])


@given(rates=RATES, counts=COUNTS)
def test_cost_of_any_counts_never_passes_the_dearest_rate(
    rates: dict[UsageClass, Decimal], counts: dict[UsageClass, int]
) -> None:
    found = cost(PriceList("l", ReaderName.OPENAI, {}), ModelPrice(rates), Usage(counts))
    tokens = counts.get(C.INPUT, 0) + counts.get(C.OUTPUT, 0)
    assert sum(int(line.count) for line in found.lines) == tokens
    assert found.credits <= -(-Fraction(max(rates.values())) * tokens // 1)


def test_class_that_a_mark_leaves_out_is_priced_as_its_parent_there() -> None:
    below = {C.INPUT: Decimal(10), C.CACHED_INPUT: Decimal(1), C.OUTPUT: Decimal(20), C.REASONING: Decimal(5)}
    price = ModelPrice(
        below, above=((100, {C.INPUT: Decimal(30)}), (200, {C.INPUT: Decimal(40), C.OUTPUT: Decimal(50)}))
    )
    listed = PriceList("l", ReaderName.OPENAI, {})
    credits = [
        cost(listed, price, Usage({C.INPUT: count, C.CACHED_INPUT: 50, C.OUTPUT: 2, C.REASONING: 1})).credits
        for count in (100, 101, 201)
    ]
    assert credits == [50 * 10 + 50 * 1 + 20 + 5, 101 * 30 + 20 + 5, 201 * 40 + 2 * 50]


def _held(
    listed: PriceList, price: ModelPrice, plan: Plan, *, body_bytes: int, max_output: int | None, answers: int = 1
) -> int:
    return estimated_hold(listed, price, plan, ModelRequest("m", max_output, body_bytes, answers=answers))


MARKS = st.lists(st.tuples(st.integers(0, 10**6), RATES), max_size=2, unique_by=lambda mark: mark[0])
SIZES = st.sampled_from([1, 3, 1000, 10**6])


@given(rates=RATES, above=MARKS, size=SIZES, body_bytes=st.integers(0, 10**7), output=st.integers(0, 10**6))
def test_hold_is_exactly_the_dearest_input_and_the_output_at_the_rates_of_its_mark(
    rates: dict[UsageClass, Decimal], above: list[tuple[int, Any]], size: int, body_bytes: int, output: int
) -> None:
    price, input_count = ModelPrice(rates, tuple(sorted(above))), -(-body_bytes // 3)
    passed = [over for mark, over in sorted(above) if input_count > mark]
    there = {kind: rate for kind, rate in rates.items() if not passed or kind.root not in passed[-1]}
    there |= passed[-1] if passed else {}
    dearest = max(_rate(there, kind) for kind in C if C.OUTPUT not in (kind, PARENTS[kind]))
    exact = (Fraction(dearest) * input_count + Fraction(_rate(there, C.OUTPUT)) * output) / size
    listed = PriceList("l", ReaderName.OPENAI, {}, unit_size=size)
    assert _held(listed, price, PLAN, body_bytes=body_bytes, max_output=output) == -(-exact // 1)


@given(rate=st.decimals(0, 100, places=3), seconds=st.decimals(0, 10**5, places=6), size=SIZES)
def test_cost_of_seconds_is_exact(rate: Decimal, seconds: Decimal, size: int) -> None:
    listed = PriceList("l", ReaderName.OPENAI, {}, unit=PriceUnit.SECOND, unit_size=size)
    found = cost(listed, ModelPrice({C.INPUT: rate}), Usage(seconds=seconds))
    assert found.credits == -(-Fraction(rate) * Fraction(seconds) / size // 1)


@pytest.mark.parametrize(
    ("model", "price"), [("gpt-terra", TERRA), ("gpt-luna-2026", LUNA), ("gpt-luna", LUNA), ("gpt-other", TERRA)]
)
def test_model_is_found_by_its_name_else_by_the_longest_pattern(model: str, price: ModelPrice) -> None:
    assert LIST.find(model) is price


@pytest.mark.parametrize("model", ["claude", "GPT-terra", "", None])
def test_model_that_is_not_listed_has_no_price_but_that_of_unknown_ones(model: str | None) -> None:
    assert LIST.find(model) is None
    assert PriceList("l", ReaderName.OPENAI, {}, unknown_model=LUNA).find(model) is LUNA


@pytest.mark.parametrize(
    ("features", "asked", "output"),
    [({}, None, 128_000), ({"max_output_tokens": 500}, None, 500), ({"max_output_tokens": 500}, 7, 7), ({}, 0, 0)],
)
def test_hold_estimates_input_by_bytes_and_output_by_what_the_request_allows(
    features: dict[str, Any], asked: int | None, output: int
) -> None:
    plan = Plan("pro", "Pro", 1, features)
    held = _held(LIST, TERRA, plan, body_bytes=3001, max_output=asked)
    assert held == -(-(1001 * 2_600_000 + output * 15_600_000) // 10**6)


def test_hold_without_any_limit_of_output_takes_the_default() -> None:
    assert _held(LIST, LUNA, PLAN, body_bytes=0, max_output=None) == -(-DEFAULT_MAX_OUTPUT * 156 // 100)


@pytest.mark.parametrize(
    ("features", "asked", "each"), [({}, None, 128_000), ({"max_output_tokens": 500}, None, 500), ({}, 7, 7)]
)
def test_hold_has_the_output_of_each_answer_that_is_asked_for(
    features: dict[str, Any], asked: int | None, each: int
) -> None:
    held = _held(LIST, TERRA, Plan("pro", "Pro", 1, features), body_bytes=0, max_output=asked, answers=3)
    assert held == -(-(3 * each * 15_600_000) // 10**6)


def test_hold_is_within_minimum_and_maximum_and_the_lists_own_number_wins() -> None:
    assert _held(LIST, LUNA, PLAN, body_bytes=0, max_output=0) == 1
    capped = PriceList("l", ReaderName.OPENAI, {}, maximum=10)
    assert _held(capped, LUNA, PLAN, body_bytes=10**6, max_output=10**6) == 10
    assert _held(PriceList("l", ReaderName.OPENAI, {}, hold=5), LUNA, PLAN, body_bytes=10**6, max_output=None) == 5


def test_hold_estimates_at_the_dearest_input_class_and_past_a_mark_at_its_rates() -> None:
    audio = ModelPrice({C.INPUT: Decimal(1), C.INPUT_AUDIO: Decimal(8), C.OUTPUT: Decimal(0)})
    assert _held(PriceList("l", ReaderName.OPENAI, {}), audio, PLAN, body_bytes=30, max_output=0) == 80
    long = _held(LIST, TERRA, PLAN, body_bytes=3 * 272_001, max_output=0)
    assert long == -(-272_001 * 52 // 10)


def test_hold_of_a_price_per_call_is_the_price() -> None:
    tools = PriceList("tools", ReaderName.MCP, {}, unit=PriceUnit.CALL)
    price = ModelPrice({C.INPUT: Decimal(200)})
    assert _held(tools, price, PLAN, body_bytes=9, max_output=None) == 200
    assert cost(tools, price, Usage()).credits == 200


@pytest.mark.parametrize(
    ("usage", "text_bytes", "is_final", "expected"),
    [
        (None, 40, True, (_usage(input=101, output=10), True)),
        (None, 0, True, (_usage(input=101, output=0), True)),
        (_usage(input=7), 40, True, (_usage(input=7, output=10), True)),
        (_usage(input=7), 0, True, (_usage(input=7, output=0), False)),  # embeddings report no output
        (_usage(output=7), 40, True, (_usage(input=101, output=7), True)),
        (_usage(input=0, output=0), 40, True, (_usage(input=0, output=0), False)),
        (_usage(input=7, output=1), 40, True, (_usage(input=7, output=1), False)),
        (_usage(input=7, output=1), 40, False, (_usage(input=7, output=10), True)),  # as Anthropic begins
        (_usage(input=7, output=99), 40, False, (_usage(input=7, output=99), False)),
    ],
)
def test_usage_that_was_not_reported_is_estimated_by_a_quarter_of_the_bytes(
    usage: Usage | None, text_bytes: int, is_final: bool, expected: tuple[Usage, bool]
) -> None:
    assert completed(usage, request_bytes=401, text_bytes=text_bytes, is_final=is_final) == expected


def test_usage_of_other_units_is_reported_or_not() -> None:
    assert is_reported(PriceUnit.CALL, None)
    assert not is_reported(PriceUnit.SECOND, _usage(input=1))
    assert is_reported(PriceUnit.SECOND, Usage(seconds=Decimal("1.5")))
    assert not is_reported(PriceUnit.USD, None)
    assert is_reported(PriceUnit.USD, Usage(cost_usd=Decimal(0)))


def test_hold_of_a_list_is_at_most_its_maximum() -> None:
    listed = PriceList("l", ReaderName.OPENAI, {}, unit=PriceUnit.SECOND, hold=50, maximum=10)
    assert _held(listed, LUNA, PLAN, body_bytes=0, max_output=None) == 10


def test_request_without_a_model_has_the_price_of_every_model() -> None:
    assert PriceList("l", ReaderName.OPENAI, {"*": LUNA}).find(None) is LUNA
    assert PriceList("l", ReaderName.OPENAI, {"g*": TERRA}, unknown_model=LUNA).find(None) is LUNA
