"""Examples of a first call are bodies that the price of the route can count, of a model that the caller may use."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from gateway.web.portal.first_call import is_callable, sample_body
from policies.model import Route
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.units import CountSource, PriceUnit

ONE, FRONTIER = ModelPrice({}), ModelPrice({}, feature="frontier")


def a_route(price: Price | PriceList) -> Route:
    return Route("r", "/v1/x", frozenset({"POST"}), "u", "x", price)


def a_list(reader: ReaderName = ReaderName.OPENAI, **models: ModelPrice) -> PriceList:
    return PriceList("l", reader, {name.replace("_", "*"): price for name, price in models.items()})


@pytest.mark.parametrize(
    ("prices", "model"),
    [
        (a_list(terra=FRONTIER, luna=ONE), "luna"),
        (a_list(luna_=ONE, small=ONE), "small"),
        (a_list(terra=FRONTIER, luna_=ONE), "luna"),
        (a_list(terra=FRONTIER), "terra"),
        (a_list(_=ONE), "demo"),
        (a_list(), "demo"),
    ],
)
def test_sample_body_names_a_model_that_can_be_asked_for(prices: PriceList, model: str) -> None:
    assert json.loads(sample_body(a_route(prices)) or "")["model"] == model


def test_sample_body_has_what_the_price_counts_in_a_request() -> None:
    in_response = Price(
        Decimal(1), PriceUnit.TOKEN, source=CountSource.RESPONSE, pointers=("/usage/total_tokens",), hold=5
    )
    characters = Price(Decimal(1), PriceUnit.CHARACTER, source=CountSource.REQUEST, pointers=("/a/text",))
    items = Price(Decimal(1), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/products",))
    bodies = [json.loads(sample_body(a_route(price)) or "") for price in (in_response, characters, items)]
    assert bodies == [{"text": "Hello"}, {"a": {"text": "Hello"}}, {"products": ["example"]}]


def test_route_of_a_protocol_with_sessions_is_no_example() -> None:
    assert not is_callable(a_route(a_list(ReaderName.MCP, search=ONE)))
    assert is_callable(a_route(a_list(search=ONE)))
