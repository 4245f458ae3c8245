"""The payment providers by name, and what settings, environment and plans call theirs.

This table is all that the gateway outside `gateway/payments/NAME` knows of which providers there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderNames:
    """`name` is used in settings, in the database and as a metric label; `title` in sentences.

    Plans and packs have the provider's id of their price in `price_field`, and that of its product in `product_field`.
    """

    name: str
    title: str
    api_key_variable: str
    webhook_secret_variable: str
    price_field: str
    product_field: str | None = None

    @property
    def path_segment(self) -> str:
        """In `/webhooks/{provider}`."""
        return self.name.replace("_", "-")

    @property
    def fields(self) -> Mapping[str, str]:
        """The field that has the provider's id, by the kind of object: `price`, and perhaps `product`."""
        return {"price": self.price_field} | ({"product": self.product_field} if self.product_field else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredUsage:
    """A provider that bills by reported usage: how old usage may be, and how long an identifier counts once."""

    accepted_for: timedelta
    deduplicated_for: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTraits:
    """Where providers differ in what they can do.

    `buyer_enters_email`: the buyer names the customer at the checkout, so the address may differ from the account's.
    `signature_field`: the header field with its signature of an event. `changes_kept_for`: how far back the provider
    lists changes. `metered_usage` None: it does not bill by usage.
    `schedules_changes`: it can change a plan with the period's end. `expires_checkouts`: it ends a checkout where it is
    asked to, and tells of each that has ended unpaid. `charges_saved_cards`: of customers who are not there.
    """

    event_types: frozenset[str]
    signature_field: str
    changes_kept_for: timedelta
    buyer_enters_email: bool = False
    cancels_immediately: bool = True
    metered_usage: MeteredUsage | None = field(default=None)
    schedules_changes: bool = False
    expires_checkouts: bool = False
    charges_saved_cards: bool = False


PROVIDERS: Mapping[str, ProviderNames] = MappingProxyType(
    {
        names.name: names
        for names in (
            ProviderNames(
                name="stripe",
                title="Stripe",
                api_key_variable="STRIPE_SECRET_KEY",
                webhook_secret_variable="STRIPE_WEBHOOK_SECRET",  # noqa: S106 - the name of a variable
                price_field="stripe_price_id",
            ),
            ProviderNames(
                name="lemon_squeezy",
                title="Lemon Squeezy",
                api_key_variable="LEMON_SQUEEZY_API_KEY",
                webhook_secret_variable="LEMON_SQUEEZY_WEBHOOK_SECRET",  # noqa: S106 - the name of a variable
                price_field="lemon_squeezy_variant_id",
                product_field="lemon_squeezy_product_id",
            ),
        )
    }
)

# The (provider, kind) of each field of a plan or pack that has a provider's id.
ID_FIELDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {field: (names.name, kind) for names in PROVIDERS.values() for kind, field in names.fields.items()}
)


def provider_ids(item: Any) -> dict[str, str]:
    """The providers' ids that an item with these fields has, by field."""
    return {name: external_id for name in ID_FIELDS if (external_id := getattr(item, name, None)) is not None}
