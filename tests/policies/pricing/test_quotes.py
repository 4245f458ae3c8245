"""A quote holds what a call can cost, and refuses models that are not offered or not in the plan."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from policies.model import Plan, Refusal, Refused
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.quotes import ModelRequest, Quote, quote_by_list, quote_plain, within_plan
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import UsageClass

ONE = Decimal(1)
SMALL = ModelPrice({UsageClass.INPUT: ONE, UsageClass.OUTPUT: ONE})
LARGE = ModelPrice({UsageClass.INPUT: ONE, UsageClass.OUTPUT: ONE}, feature="frontier")
LIST = PriceList("l", ReaderName.OPENAI, {"small": SMALL, "large": LARGE})
FREE, PRO = Plan("free", "Free", 1, {}), Plan("pro", "Pro", 1, {"frontier": True})
OFFERED = {"Free": FREE.features, "Pro": PRO.features}


def test_quote_of_a_plain_price_keeps_the_units_of_its_request() -> None:
    items = Price(Decimal(2), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/n",))
    text = Price(ONE, PriceUnit.CHARACTER, 10, source=CountSource.REQUEST, pointers=("/input",))
    assert quote_plain(items, PRO, units=3) == Quote(hold=6, required=6, units=3, items=3)
    assert quote_plain(text, PRO, units=95) == Quote(hold=10, required=10, units=95, items=1)
    assert quote_plain(Price(Decimal(0))) == Quote(hold=0, required=0)
    assert quote_plain(Price(ONE, PriceUnit.TOKEN, hold=0)) == Quote(hold=0, required=1)


def test_quote_refuses_more_items_than_the_plan_allows_in_a_call() -> None:
    items = Price(Decimal(2), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/n",))
    text = Price(ONE, PriceUnit.CHARACTER, 10, source=CountSource.REQUEST, pointers=("/input",))
    small = replace(PRO, max_products_per_batch=2)
    assert quote_plain(items, small, units=2).items == 2
    assert quote_plain(text, small, units=95).units == 95
    with pytest.raises(Refused) as refused:
        quote_plain(items, small, units=3)
    assert refused.value.code is Refusal.BATCH_TOO_LARGE


def test_quote_by_list_freezes_the_price_of_the_model() -> None:
    found = quote_by_list(LIST, PRO, ModelRequest("large", 50, body_bytes=30), offered=OFFERED)
    assert found == Quote(hold=60, required=60, model="large", model_price=LARGE, body_bytes=30)


def test_quote_by_list_refuses_what_is_not_offered_or_not_in_the_plan() -> None:
    with pytest.raises(Refused) as unknown:
        quote_by_list(LIST, PRO, ModelRequest("huge", None, body_bytes=0), offered=OFFERED)
    with pytest.raises(Refused) as above:
        quote_by_list(LIST, FREE, ModelRequest("large", None, body_bytes=0), offered=OFFERED)
    assert unknown.value.code is Refusal.MODEL_NOT_OFFERED
    assert unknown.value.extras == {"model": "huge", "models": ["large", "small"]}
    assert above.value.code is Refusal.FEATURE_NOT_IN_PLAN
    assert above.value.extras == {"feature": "frontier", "plan": "Free", "plans_with_feature": ["Pro"]}


def test_quote_by_list_refuses_alternatives_that_cost_something_else() -> None:
    """An API may answer by any of the models that a request names, and the call is priced by the first."""

    def quote(plan: Plan, *alternatives: str) -> Quote:
        request = ModelRequest("small", 1, body_bytes=0, alternatives=alternatives)
        return quote_by_list(LIST, plan, request, offered=OFFERED)

    assert quote(FREE, "small") == quote(FREE)
    for plan, other, code in (
        (FREE, "large", Refusal.INVALID_BODY),
        (PRO, "large", Refusal.INVALID_BODY),
        (PRO, "huge", Refusal.MODEL_NOT_OFFERED),
    ):
        with pytest.raises(Refused) as refused:
            quote(plan, "small", other)
        assert refused.value.code is code


def test_quote_of_a_protocol_message_holds_nothing() -> None:
    assert quote_by_list(LIST, FREE, ModelRequest(None, None, body_bytes=9, is_free=True), offered={}) == Quote(0, 0)


def test_quote_of_a_retrieval_holds_nothing_unless_the_call_is_priced() -> None:
    asked, listed = ModelRequest(None, None, body_bytes=0, is_retrieval=True), replace(LIST, unknown_model=SMALL)
    assert quote_by_list(listed, PRO, asked, offered=OFFERED) == Quote(0, 0, is_retrieval=True)
    assert quote_by_list(replace(listed, unit=PriceUnit.CALL), PRO, asked, offered=OFFERED).hold == 1
    with pytest.raises(Refused) as unknown:
        quote_by_list(LIST, PRO, asked, offered=OFFERED)
    assert unknown.value.code is Refusal.MODEL_NOT_OFFERED


def test_quote_within_a_plan_holds_what_a_call_may_cost() -> None:
    assert within_plan(Quote(60, 60), 100) == Quote(60, 60)
    assert within_plan(Quote(60, 60), 60) == Quote(60, 60)
    assert within_plan(Quote(60, 60), 7) == Quote(7, 7, is_cut=True)
