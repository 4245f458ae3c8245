"""A receipt accounts for the whole charge by its lines, or has none and says why."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model import Outcome, Route
from policies.pricing import model_costs
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.prices import cost
from policies.pricing.receipts import ADJUSTMENT, Receipt, RecordedCall, receipt
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import Usage, UsageClass, UsageSource

RATES = st.dictionaries(st.sampled_from(UsageClass), st.decimals(0, 10**6, places=3), min_size=1)
COUNTS = st.dictionaries(st.sampled_from(UsageClass), st.integers(0, 10**7))
BOUNDS = st.tuples(st.integers(0, 50), st.none() | st.integers(50, 10**6))


def a_route(price: Price | PriceList) -> Route:
    return Route("r", "/r", frozenset({"POST"}), "u", "ai_generation", price)


def a_list(rates: dict[UsageClass, Decimal], *, minimum: int = 0, maximum: int | None = None) -> PriceList:
    models = {"m": ModelPrice(rates)}
    return PriceList("l", ReaderName.OPENAI, models, unit_size=1000, minimum=minimum, maximum=maximum)


def a_call(credits: int, usage: Usage | None = None, **more: Any) -> RecordedCall:
    call = RecordedCall(Outcome.SUCCEEDED, credits, 1, None, 1500, "m", usage or Usage())
    return call._replace(**more)


@given(RATES, COUNTS, BOUNDS)
def test_lines_of_a_call_by_class_add_up_to_its_charge(
    rates: dict[UsageClass, Decimal], counts: dict[UsageClass, int], bounds: tuple[int, int | None]
) -> None:
    listed, usage = a_list(rates, minimum=bounds[0], maximum=bounds[1]), Usage(counts)
    charged = model_costs.cost(listed, listed.models["m"], usage).credits
    found = receipt(a_route(listed), a_call(charged, usage))
    if charged:
        assert sum(line.credits for line in found.lines) == charged
        for line in found.lines:
            if line.kind != ADJUSTMENT:
                assert line.count is not None
                assert line.price is not None
                assert line.credits == line.price * line.count / 1000
    else:
        assert (found.lines, found.computed) == ((), "free")


@given(COUNTS, st.integers(1, 10**9))
def test_receipt_of_any_charge_adds_up_or_has_no_lines(counts: dict[UsageClass, int], charged: int) -> None:
    listed = a_list({UsageClass.INPUT: Decimal("0.7"), UsageClass.OUTPUT: Decimal(3)})
    found = receipt(a_route(listed), a_call(charged, Usage(counts)))
    assert not found.lines or sum(line.credits for line in found.lines) == charged
    assert found.computed


@given(st.decimals("0.001", 1000, places=3), st.integers(1, 10**6), st.integers(0, 20))
def test_lines_of_a_plain_price_add_up_to_its_charge(credits: Decimal, tokens: int, minimum: int) -> None:
    price = Price(
        credits,
        PriceUnit.TOKEN,
        unit_size=1000,
        source=CountSource.RESPONSE,
        pointers=("/usage/total_tokens",),
        minimum=minimum,
    )
    charged = cost(price, tokens)
    found = receipt(a_route(price), a_call(charged, tokens=tokens))
    assert sum(line.credits for line in found.lines) == charged
    assert (found.lines[0].kind, found.lines[0].count) == ("token", tokens)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (a_call(0), "free"),
        (a_call(0, outcome=Outcome.UPSTREAM_ERROR), "nothing, the call ended as upstream_error"),
        (a_call(5, source=UsageSource.MISSING), "5 credits that were held, because the usage of the call"),
        (a_call(5, source=UsageSource.REPORTED), "5 credits, as the service itself priced the call"),
    ],
)
def test_receipt_without_lines_says_why(call: RecordedCall, said: str) -> None:
    found = receipt(a_route(a_list({UsageClass.INPUT: Decimal(1)})), call)
    assert found.lines == ()
    assert found.computed.startswith(said)


def test_receipt_of_a_request_without_a_model_is_by_the_price_of_unknown_ones() -> None:
    listed = PriceList(
        "l",
        ReaderName.OPENAI,
        {"m": ModelPrice({UsageClass.INPUT: Decimal(9)})},
        unknown_model=ModelPrice({UsageClass.INPUT: Decimal(2)}),
    )
    found = receipt(a_route(listed), a_call(20, Usage({UsageClass.INPUT: 10})))
    assert [(line.kind, line.count, line.price, line.credits) for line in found.lines] == [
        ("input", 10, Decimal(2), Decimal(20))
    ]


def test_receipt_of_a_charge_that_the_plan_cut_says_so() -> None:
    listed, usage = a_list({UsageClass.INPUT: Decimal(1000)}), Usage({UsageClass.INPUT: 900})
    found = receipt(a_route(listed), a_call(40, usage, is_cut_by_plan=True))
    assert found.computed == "900 input at 1000 per 1000 tokens, at most 40 by the plan"
    assert [(line.kind, int(line.credits)) for line in found.lines] == [("input", 900), (ADJUSTMENT, 40 - 900)]
    items = Price(Decimal(1), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/n",))
    found = receipt(a_route(items), a_call(40, items=41, is_cut_by_plan=True))
    assert found.computed == "1 credit per item x 41 items, at most 40 by the plan"
    assert sum(line.credits for line in found.lines) == 40
    found = receipt(a_route(items), a_call(40, items=3, is_cut_by_plan=True))
    assert found == Receipt("40 credits, the most that the plan charges for a call")
