"""Prices of gateway.yaml: plain, by class, by model, in place and by name; every problem with its line and key."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from gateway.config.prices import AnyPrice
from policies.pricing.price import Price
from policies.pricing.price_list import CostList, ModelPrice, PriceList, ReaderName
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import UsageClass as C
from tests.config.test_routes import SECRETS, problem, routes


def price(tmp_path: Path, written: str) -> AnyPrice:
    return routes(tmp_path, f"match: {{path: /}}, price: {written}")[0].price


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{credits: 0}", Price(Decimal(0))),
        ("{credits: 0.25, per: call}", Price(Decimal("0.25"))),
        ("{credits: 1, maximum: 5}", Price(Decimal(1), maximum=5)),
        (
            "{credits: 100, per: item, count: [request:/n, request:/images], default: 1}",
            Price(Decimal(100), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/n", "/images"), default=1),
        ),
        (
            "{credits: 130000, per: USD, count: response:/usage/cost, hold: 500}",
            Price(Decimal(130000), PriceUnit.USD, source=CountSource.RESPONSE, pointers=("/usage/cost",), hold=500),
        ),
        (
            "{credits: 26, per: 1M characters, count: request:/input}",
            Price(Decimal(26), PriceUnit.CHARACTER, 10**6, source=CountSource.REQUEST, pointers=("/input",)),
        ),
        ('{credits: "2", per: minute, hold: 4}', Price(Decimal(2), PriceUnit.MINUTE, hold=4)),
        (
            "{credits: 1, per: item, count: request:/products, minimum: 1}",
            Price(Decimal(1), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/products",), minimum=1),
        ),
        (
            '{credits: 1, per: items, count: "request:"}',
            Price(Decimal(1), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("",)),
        ),
        (
            "{credits: 1, per: 1000 tokens, count: response:/usage/a~1b~0c, hold: 5}",
            Price(Decimal(1), PriceUnit.TOKEN, 1000, source=CountSource.RESPONSE, pointers=("/usage/a~1b~0c",), hold=5),
        ),
    ],
)
def test_price_is_credits_per_unit(tmp_path: Path, written: str, expected: Price) -> None:
    assert price(tmp_path, written) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{credits: -1}", "must be an amount of 0 or more"),
        ("{credits: .inf}", "must be an amount of 0 or more"),
        ("{}", "price.credits: is required"),
        ("{credits: 1, per: byte}", "must be call, item, minute, second, token"),
        ("{credits: 1, per: 0 tokens}", "must be call, item, minute, second, token"),
        ("{credits: 1, per: 10 calls}", "must be call without a number"),
        ("{credits: 1, per: item}", "per: item needs count: request:/pointer"),
        ("{credits: 1, per: second, count: request:/x}", "per: second needs count: response:/pointer"),
        ("{credits: 1, per: item, count: [request:/a, response:/b]}", "pointers into one body"),
        ("{credits: 1, per: item, count: response:/x, default: 1}", "default needs count: request:/pointer"),
        ("{credits: 1, minimum: 3, maximum: 2}", "maximum 2 is below minimum 3"),
        ("{credits: 1, per: 10 tokens, count: request:/x}", "per: token needs count: response:/pointer"),
        ("{credits: 1, count: request:/x}", "count needs a unit that a body tells"),
        ("{credits: 1, per: item, count: products}", "must be request:/pointer or response:/pointer"),
        ("{credits: 1, per: item, count: request:products}", "each part begins with /"),
        ("{credits: 1, per: item, count: request:/a~2}", "~ is written ~0"),
        ("{credits: 1, minimum: 0.5}", "must be a whole number"),
        ("{credits: 1, hold: -1}", "must be at least 0"),
    ],
)
def test_price_that_cannot_be_computed_is_refused(tmp_path: Path, written: str, message: str) -> None:
    said = problem(tmp_path, f"match: {{path: /}}, price: {written}")

    assert said.startswith("3: routes[0].price")
    assert message in said


def test_price_map_of_classes_holds_for_every_model(tmp_path: Path) -> None:
    found = price(tmp_path, "{credits: {input: 260, cached_input: 26, output: 1560}, per: 1M tokens, reader: openai}")
    rates = {C.INPUT: Decimal(260), C.CACHED_INPUT: Decimal(26), C.OUTPUT: Decimal(1560)}
    assert isinstance(found, PriceList)
    assert found.reader is ReaderName.OPENAI
    assert (found.unit, found.unit_size, found.hold) == (PriceUnit.TOKEN, 10**6, None)
    assert found.find("any") == ModelPrice(rates)


NAMED = """
prices:
  openai:
    reader: openai
    per: 1M tokens
    models:
      gpt-terra:
        input: 2600000
        output: 15600000
        feature: frontier
        max_output: 128000
        above: {272000: {input: 5200000, output: 23400000}}
      "text-embedding-3-*": 26000
    unknown_model: {input: 1, output: 2.5}
    hold: 7
    minimum: 1
    maximum: 500000000
  upload: {credits: 3}
upstreams: {up: {targets: [http://a]}}
routes:
  - {name: chat, upstream: up, match: {path: /chat}, price: openai}
  - {name: upload, upstream: up, match: {path: /upload}, price: upload}
"""


def _named(tmp_path: Path, text: str) -> dict[str, AnyPrice]:
    file = tmp_path / "gateway.yaml"
    file.write_text(text, "utf-8")
    return {route.name: route.price for route in load(file, SECRETS, persist_secrets=False).routes}


def test_price_list_is_named_once_and_used_by_routes(tmp_path: Path) -> None:
    found = _named(tmp_path, NAMED)
    terra = ModelPrice(
        {C.INPUT: Decimal(2600000), C.OUTPUT: Decimal(15600000)},
        above=((272000, {C.INPUT: Decimal(5200000), C.OUTPUT: Decimal(23400000)}),),
        feature="frontier",
        max_output=128000,
    )
    assert found["upload"] == Price(Decimal(3))
    assert found["chat"] == PriceList(
        "openai",
        ReaderName.OPENAI,
        {"gpt-terra": terra, "text-embedding-3-*": ModelPrice({C.INPUT: Decimal(26000), C.OUTPUT: Decimal(26000)})},
        unit_size=10**6,
        unknown_model=ModelPrice({C.INPUT: Decimal(1), C.OUTPUT: Decimal("2.5")}),
        hold=7,
        minimum=1,
        maximum=500_000_000,
    )


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        (
            "output: 15600000",
            "outptu: 15600000",
            "9: prices.openai.models.gpt-terra.outptu: unknown key 'outptu'",
        ),
        ("output: 15600000", "output: -1", "9: prices.openai.models.gpt-terra.output: must be an amount of 0 or more"),
        ("272000:", "many:", "12: prices.openai.models.gpt-terra.above.many: must be a whole number"),
        ("{input: 5200000", "{in: 5200000", "12: prices.openai.models.gpt-terra.above.272000.in: unknown key 'in'"),
        ("max_output: 128000", "max_output: much", "11: prices.openai.models.gpt-terra.max_output: must be a whole"),
        ("feature: frontier", "feature: [a]", "10: prices.openai.models.gpt-terra.feature: must be 1 to 64 letters"),
        ("reader: openai", "reader: cohere", "4: prices.openai.reader: must be openai, anthropic"),
        ("hold: 7", "hold: guess", "15: prices.openai.hold: must be estimate or a whole number"),
        ("per: 1M tokens", "per: minute", "3: prices.openai: per: must be tokens, call, second or USD"),
        ('"text-embedding-3-*"', '"text-*-3"', "13: prices.openai.models.text-*-3: may hold * only at its end"),
        ("price: upload", "price: uplaod", "22: routes[1].price: unknown price 'uplaod'; known prices: openai, upload"),
        ("    reader: openai\n", "", "3: prices.openai.reader: is required"),
    ],
)
def test_price_list_problem_is_reported_where_it_was_written(
    tmp_path: Path, was: str, becomes: str, message: str
) -> None:
    assert was in NAMED
    with pytest.raises(ConfigError) as caught:
        _named(tmp_path, NAMED.replace(was, becomes))
    (found,) = caught.value.problems
    assert str(found).partition("gateway.yaml:")[2].startswith(message)


COSTS = """      "text-embedding-3-*": 26000
    costs:
      gpt-terra: {input: 2.5, output: "15", above: {272000: {input: 5}}}
      "text-embedding-*": 0.02
"""
EMBEDDING = '      "text-embedding-3-*": 26000\n'


def test_costs_are_written_as_models_and_in_dollars(tmp_path: Path) -> None:
    found = _named(tmp_path, NAMED.replace(EMBEDDING, COSTS))["chat"]
    assert isinstance(found, PriceList)
    terra = ModelPrice(
        {C.INPUT: Decimal("2.5"), C.OUTPUT: Decimal(15)},
        above=((272000, {C.INPUT: Decimal(5)}),),
    )
    embedding = ModelPrice({C.INPUT: Decimal("0.02"), C.OUTPUT: Decimal("0.02")})
    assert found.costs == CostList({"gpt-terra": terra, "text-embedding-*": embedding}, unit_size=10**6)


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("{input: 2.5", "{input: -2", "15: prices.openai.costs.gpt-terra.input: must be an amount"),
        ("{input: 2.5", "{feature: a, input: 2.5", "15: prices.openai.costs.gpt-terra.feature: unknown key 'feature'"),
        ("embedding-*", "*-embedding", "16: prices.openai.costs.text-*-embedding: may hold * only at its end"),
        ('"text-embedding-*": 0.02', "catalogue: list", "16: prices.openai.costs.catalogue: catalogue: must be genai"),
        ('"text-embedding-*": 0.02', "provider: openai", "14: prices.openai.costs: catalogue: must be genai-prices"),
    ],
)
def test_problem_of_costs_is_reported_where_it_was_written(
    tmp_path: Path, was: str, becomes: str, message: str
) -> None:
    written = NAMED.replace(EMBEDDING, COSTS.replace(was, becomes))
    with pytest.raises(ConfigError) as caught:
        _named(tmp_path, written)
    (found,) = caught.value.problems
    assert str(found).partition("gateway.yaml:")[2].startswith(message)


def test_catalogue_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    monkeypatch.delitem(sys.modules, "genai_prices.data", raising=False)
    written = COSTS.replace('"text-embedding-*": 0.02', "catalogue: genai-prices\n      provider: openai")
    with pytest.raises(ConfigError, match=r"metering-gateway\[costs\]"):
        _named(tmp_path, NAMED.replace(EMBEDDING, written))


@pytest.mark.parametrize("unit", ["second", "USD"])
def test_price_list_of_what_no_request_tells_needs_a_hold(tmp_path: Path, unit: str) -> None:
    written = f"match: {{path: /}}, price: {{reader: openai, per: {unit}, credits: {{input: 1}}}}"
    assert f"per: {unit} needs hold, a number of credits" in problem(tmp_path, written)
