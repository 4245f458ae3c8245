"""What models cost by genai-prices, an optional package. Its installed version says so; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from typing import Any

from gateway.clock import now
from policies.pricing.price_list import Catalogue, ModelPrice
from policies.usage.counts import UsageClass

NAME = "genai-prices"
_SLOT_SECONDS = 900  # prices change at a date or a time of day
_PER = 1_000_000
_CLASSES: Mapping[str, UsageClass] = {
    "input_mtok": UsageClass.INPUT,
    "cache_read_mtok": UsageClass.CACHED_INPUT,
    "cache_write_mtok": UsageClass.CACHE_WRITE,
    "cache_write_1h_mtok": UsageClass.CACHE_WRITE_1H,
    "input_audio_mtok": UsageClass.INPUT_AUDIO,
    "input_image_mtok": UsageClass.INPUT_IMAGE,
    "output_mtok": UsageClass.OUTPUT,
    "output_reasoning_mtok": UsageClass.REASONING,
    "output_audio_mtok": UsageClass.OUTPUT_AUDIO,
    "output_image_mtok": UsageClass.OUTPUT_IMAGE,
}


def open_catalogue(provider_id: str, unit_size: int) -> Catalogue:
    """Looks up models of a provider, in US dollars for so many tokens. Raises ValueError where that cannot be."""
    providers = _providers()
    provider = next((each for each in providers if each.id == provider_id), None)
    if provider is None:
        raise ValueError(f"{NAME} has no provider {provider_id!r}, only {', '.join(each.id for each in providers)}")

    @lru_cache(maxsize=4096)
    def find_at(model: str, slot: int) -> ModelPrice | None:
        found = provider.find_model(model.lower(), all_providers=providers)
        at = datetime.fromtimestamp(slot * _SLOT_SECONDS, now().tzinfo)
        return None if found is None else _price(found.get_prices(at).__dict__, Decimal(unit_size) / _PER)

    return lambda model: find_at(model, int(now().timestamp()) // _SLOT_SECONDS)


def _providers() -> list[Any]:
    try:
        found: list[Any] = import_module("genai_prices.data").providers
    except ImportError:
        raise ValueError(f"{NAME} is not installed; it comes with metering-gateway[costs]") from None
    return found


def _price(written: Mapping[str, Any], scale: Decimal) -> ModelPrice | None:
    """None where the model is not priced by its tokens. A price by tiers is of the whole call once past a mark."""
    known = {kind: value for name, kind in _CLASSES.items() if (value := written.get(name)) is not None}
    if not known.keys() & {UsageClass.INPUT, UsageClass.OUTPUT}:
        return None
    marks = sorted({tier.start for value in known.values() for tier in getattr(value, "tiers", ())})
    above = tuple((mark, {kind: _rate(value, mark) * scale for kind, value in known.items()}) for mark in marks)
    return ModelPrice({kind: _rate(value, -1) * scale for kind, value in known.items()}, above=above)


def _rate(written: Any, mark: int) -> Decimal:
    """The rate of a call whose input has passed the mark."""
    if isinstance(written, Decimal | int):
        return Decimal(written)
    passed = [tier.price for tier in written.tiers if tier.start <= mark]
    return Decimal(passed[-1] if passed else written.base)
