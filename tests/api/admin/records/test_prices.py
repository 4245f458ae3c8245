"""Prices: what routes ask for, and what a call would cost by them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.api.admin.catalogue import prices
from gateway.api.admin.catalogue.prices import PriceQuestion
from gateway.api.errors import Invalid
from policies.model import Route
from policies.pricing.price_list import CostList, ModelPrice, PriceList, ReaderName
from policies.usage.counts import UsageClass
from tests.api.conftest import AdminApi

MODELS = {"large": ModelPrice({UsageClass.INPUT: Decimal(250), UsageClass.OUTPUT: Decimal(2000)}, feature="frontier")}
COSTS = CostList(
    {"large": ModelPrice({UsageClass.INPUT: Decimal("1.25"), UsageClass.OUTPUT: Decimal(10)})}, unit_size=10**6
)
LISTED = PriceList("ai", ReaderName.OPENAI, MODELS, unit_size=10**6, costs=COSTS)
CHAT = Route("chat", "/v1/chat", frozenset({"POST"}), "main", "ai", LISTED)


async def test_prices_of_every_route_are_listed(admin_api: AdminApi) -> None:
    rows = (await admin_api.get("/prices"))["data"]
    assert [(row["endpoint"], row["credits"], row["per"]) for row in rows] == [
        ("analyze", {"unit": "1"}, "1 call"),
        ("generate", {"unit": "2"}, "1 item"),
        ("chat", {"unit": "1"}, "1000 tokens"),
    ]
    assert [row["endpoint"] for row in (await admin_api.get("/prices", endpoint="chat"))["data"]] == ["chat"]


async def test_quote_is_by_the_route_and_says_how(admin_api: AdminApi) -> None:
    answer: dict[str, Any] = await admin_api.post("/prices/quote", {"route": "generate", "units": 3})
    assert (answer["credits"], answer["computed"]) == (6, "2 credits per item x 3 items")
    assert (answer["cost_usd"], answer["margin_usd"]) == (None, None)
    await admin_api.call("POST", "/prices/quote", status=404, json={"route": "none"})


def test_quote_of_a_model_tells_its_cost() -> None:
    question = PriceQuestion(route="chat", model="large", input_tokens=10_000, output_tokens=1_000)
    credits, computed, cost = prices._quote(LISTED, question)
    assert (credits, cost) == (5, Decimal("0.0225"))
    assert "10000 input at 250" in computed
    for wrong in ({"model": "small"}, {"model": "large", "input_tokens": 1, "cached_input_tokens": 2}):
        with pytest.raises(Invalid):
            prices._quote(LISTED, PriceQuestion(route="chat", **wrong))
    (row,) = prices._rows(CHAT)
    assert (row.model, row.credits, row.feature) == ("large", {"input": "250", "output": "2000"}, "frontier")
