"""The catalogue of genai-prices says what a model costs as the package itself computes it, without a network."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gateway.cost_catalogue import open_catalogue
from policies.pricing.model_costs import cost_usd
from policies.pricing.price_list import CostList
from policies.usage.counts import Usage, UsageClass

genai_prices = pytest.importorskip("genai_prices")

COUNTS = {UsageClass.INPUT: 1000, UsageClass.CACHED_INPUT: 600, UsageClass.CACHE_WRITE: 100, UsageClass.OUTPUT: 300}


@pytest.mark.parametrize("size", [1, 1000, 10**6])
@pytest.mark.parametrize("factor", [1, 1000])
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o"),
        ("openai", "gpt-4o-2024-11-20"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
    ],
)
def test_catalogue_costs_what_the_package_computes(provider: str, model: str, factor: int, size: int) -> None:
    counts = {kind: count * factor for kind, count in COUNTS.items()}
    if provider != "anthropic":
        del counts[UsageClass.CACHE_WRITE]
    costs = CostList({}, unit_size=size, catalogue=open_catalogue(provider, size))
    usage = genai_prices.Usage(
        input_tokens=counts[UsageClass.INPUT],
        cache_read_tokens=counts[UsageClass.CACHED_INPUT],
        cache_write_tokens=counts.get(UsageClass.CACHE_WRITE),
        output_tokens=counts[UsageClass.OUTPUT],
    )
    expected = genai_prices.calc_price(usage, model, provider_id=provider).total_price
    assert expected > 0
    assert cost_usd(costs, Usage(counts), served=model, asked=None) == expected


def test_catalogue_does_not_know_every_model() -> None:
    assert open_catalogue("openai", 1)("no-such-model-of-anybody") is None


def test_catalogue_names_the_providers_that_it_has() -> None:
    with pytest.raises(ValueError, match="genai-prices has no provider 'opnai', only anthropic, "):
        open_catalogue("opnai", 1)


def test_rates_are_scaled_to_the_unit() -> None:
    found = open_catalogue("openai", 1000)("gpt-4o")
    assert found is not None
    assert found.rates[UsageClass.INPUT] == Decimal("0.0025")
