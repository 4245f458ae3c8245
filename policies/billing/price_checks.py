"""Where the price that a plan or pack is offered at differs from the one that a provider charges for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import inf

from policies.billing.invoicing import PriceTier
from policies.billing.money import plain


@dataclass(frozen=True, slots=True)
class RemotePrice:
    """A provider's price. None: it cannot be told, so it is not compared. `interval` None: it is paid once.

    `tiers` are empty where it has none; they apply by `tiers_mode`.
    """

    amount: Decimal | None
    currency: str | None
    interval: tuple[str, int] | None
    is_metered: bool = False
    is_active: bool = True
    tiers: tuple[PriceTier, ...] | None = None
    tiers_mode: str | None = None


@dataclass(frozen=True, slots=True)
class OfferedPrice:
    """What buyers are shown. `interval` None: a pack. `pricing_model` and `tiers` decide what its price means."""

    amount: Decimal
    currency: str
    interval: tuple[str, int] | None
    pricing_model: str = "flat"
    tiers: tuple[PriceTier, ...] = ()
    tiers_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan or a pack, and the providers' ids of its price by field."""

    name: str
    price: OfferedPrice
    provider_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PriceDifference:
    """`field` is price, tiers, currency, interval, usage, is_active or price_id."""

    field: str
    offered: str
    charged: str


def differences(offered: OfferedPrice, charged: RemotePrice | None) -> tuple[PriceDifference, ...]:
    """Empty where both agree; `charged` None: the provider has no such price."""
    if charged is None:
        return (PriceDifference("price_id", "a price of the provider", "there is no such price"),)
    return tuple(_differences(offered, charged))


def _differences(offered: OfferedPrice, charged: RemotePrice) -> Iterator[PriceDifference]:
    if not charged.is_active:
        yield PriceDifference("is_active", "for sale", "archived, so no checkout can sell it")
    if charged.currency is not None and charged.currency != offered.currency:
        yield PriceDifference("currency", offered.currency, charged.currency)
    offered_tiers, charged_tiers = _tiers(offered.tiers, offered.tiers_mode), _tiers(charged.tiers, charged.tiers_mode)
    if charged.tiers is not None and charged_tiers != offered_tiers:
        yield PriceDifference("tiers", offered_tiers, charged_tiers)
    # Of a price by tiers or by usage the amount is no single number.
    is_comparable = offered.pricing_model in ("flat", "per_seat") and not charged.is_metered
    if is_comparable and charged.amount is not None and charged.amount != offered.amount:
        yield PriceDifference("price", plain(offered.amount), plain(charged.amount))
    if charged.interval != offered.interval:
        yield PriceDifference("interval", _named(offered.interval), _named(charged.interval))
    if charged.is_metered != (offered.pricing_model == "usage"):
        yield PriceDifference("usage", offered.pricing_model, "metered" if charged.is_metered else "not metered")


def _tiers(tiers: Sequence[PriceTier] | None, mode: str | None) -> str:
    """`graduated: 0.1 to 10, 0.05 + 3 beyond`."""
    if not tiers:
        return "none"
    parts = []
    for tier in sorted(tiers, key=lambda each: each.up_to or inf):
        flat = f" + {plain(tier.flat_price.normalize())}" if tier.flat_price else ""
        upto = "beyond" if tier.up_to is None else f"to {tier.up_to}"
        parts.append(f"{plain(tier.unit_price.normalize())}{flat} {upto}")
    return f"{mode}: {', '.join(parts)}"


def _named(interval: tuple[str, int] | None) -> str:
    return "once" if interval is None else f"every {interval[1]} {interval[0]}"
