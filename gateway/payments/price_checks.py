"""Compares what plans and packs are offered at with what their providers charge; names differences, and blocks nobody.

A difference may be meant, for a moment: the provider's price is made before the plan has it, or after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable
from policies.billing.price_checks import Offer, PriceDifference, differences
from policies.billing.providers import PROVIDERS

# An operator waits for it.
TIMEOUT_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FoundDifference:
    offer: str
    provider: str
    difference: PriceDifference


async def check(providers: Iterable[Provider], offer: Offer) -> list[FoundDifference] | None:
    """The differences, which are logged; None where a provider did not answer in time."""
    found: list[FoundDifference] = []
    for provider in providers:
        price_id = offer.provider_ids.get(PROVIDERS[provider.name].price_field)
        if price_id is None:
            continue
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                charged = await provider.fetch_price(price_id)
        except (TimeoutError, ProviderUnavailable, ProviderRefused) as error:
            log.warning("provider_price_unknown", offer=offer.name, provider=provider.name, reason=str(error))
            return None
        found += [FoundDifference(offer.name, provider.name, each) for each in differences(offer.price, charged)]
    for each in found:
        log.warning(
            "provider_price_differs",
            offer=each.offer,
            provider=each.provider,
            field=each.difference.field,
            offered=each.difference.offered,
            charged=each.difference.charged,
        )
    return found
