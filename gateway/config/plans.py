"""Plans as gateway.yaml writes them, and the four that hold where it writes none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.fields import Amount, Currency, Flag, NotNegative, Positive, Size, Text, Word
from policies.model import FeatureValue

PricingModel = Literal["flat", "per_seat", "tiered", "volume", "usage"]
BillingInterval = Literal["day", "week", "month", "year"]

# Limits are kept in 32 bits, credits and sizes in 64 (PostgreSQL's integer and bigint).
_Limit = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
_Credits = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
_THE_REST = 2**63
_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _features(written: object) -> dict[str, FeatureValue]:
    """A list of names, each of them true, or a map from name to true, false, a whole number or a word."""
    given = written if isinstance(written, Mapping) else _each_true(written)
    for name, value in given.items():
        if not isinstance(name, str) or not _FEATURE.fullmatch(name):
            raise ValueError(f"feature names are letters, digits, '.', '_' and '-', got {name!r}")
        if not isinstance(value, bool | int | str):
            raise ValueError(f"feature {name} must be true, false, a whole number or text, got {value!r}")
    return dict(given)


def _each_true(written: object) -> dict[str, FeatureValue]:
    if isinstance(written, list | tuple) and all(isinstance(name, str) for name in written):
        return dict.fromkeys(written, True)
    raise ValueError("must be a list of feature names, or a map such as {analysis: true, seats: 5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSpec:
    """Units up to and including `up_to` (None: all the rest) at `unit_price` each, plus `flat_price` once."""

    up_to: Positive | None = None
    unit_price: Amount
    flat_price: Amount = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    """A plan to create. `price` is per billing interval in `currency`; a limit of None is no limit.

    `permissions` None, unlike an empty list, leaves them to what routes ask for.
    """

    id: Word
    name: Annotated[str, Field(min_length=1, max_length=200)]
    price: Amount
    description: str | None = None
    currency: Currency = "USD"
    billing_interval: BillingInterval = "month"
    billing_interval_count: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] = 1
    trial_period_days: _Limit = 0
    credits_per_period: _Credits = 0
    credits_rollover: Flag = False
    requests_per_minute: _Limit | None = None
    requests_per_hour: _Limit | None = None
    max_api_calls_per_day: _Limit | None = None
    max_concurrent_requests: _Limit | None = None
    max_products_per_batch: _Limit | None = None
    max_file_size_bytes: Size | None = None
    features: Annotated[dict[str, FeatureValue], BeforeValidator(_features)] = field(default_factory=dict)
    permissions: frozenset[Word] | None = None
    pricing_model: PricingModel = "flat"
    tiers: tuple[TierSpec, ...] = ()
    stripe_price_id: Text | None = None
    lemon_squeezy_variant_id: Text | None = None
    lemon_squeezy_product_id: Text | None = None
    is_active: Flag = True
    sort_order: Annotated[NotNegative, Field(le=2**31 - 1)] = 0

    def __post_init__(self) -> None:
        if not self.tiers:
            if self.pricing_model in ("tiered", "volume"):
                raise ValueError(f"pricing_model {self.pricing_model} needs tiers")
            return
        if self.pricing_model not in ("tiered", "volume"):
            raise ValueError(f"tiers need pricing_model tiered or volume, not {self.pricing_model}")
        bounds = [tier.up_to or _THE_REST for tier in self.tiers]
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError("tiers must rise by up_to; only the last may leave it out")


def default_plans() -> tuple[PlanSpec, ...]:
    """Free to enterprise, each with the features of the one before and its own."""
    plans: list[PlanSpec] = []
    features: dict[str, FeatureValue] = {}
    for order, (name, price, credits_per_period, per_minute, per_hour, own) in enumerate(_DEFAULT_PLANS):
        features = features | dict.fromkeys(own, True)
        plans.append(
            PlanSpec(
                id=name,
                name=name,
                price=Decimal(price),
                credits_per_period=credits_per_period,
                requests_per_minute=per_minute,
                requests_per_hour=per_hour,
                features=features,
                sort_order=order,
            )
        )
    return tuple(plans)


_DEFAULT_PLANS = (
    ("free", "0", 10, 5, 50, ("analysis", "ai_generation", "csv_upload")),
    ("basic", "9.99", 100, 20, 500, ("enhanced_generation", "email_support")),
    ("pro", "29.99", 1000, 50, 2000, ("priority_support", "custom_templates", "api_access")),
    ("enterprise", "99.99", 10000, 100, 10000, ("white_label", "custom_integrations", "unlimited_access")),
)
