"""What selling takes: the payment providers that are configured, what is for sale, and where buyers come back to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from fastapi import Depends, Request

from gateway.api.errors import Invalid
from gateway.config.model import Pack
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_customers, provider_sync
from gateway.ledger.payments.checkouts import Checkout, open_checkout, placed
from gateway.ledger.payments.provider_updates import News
from gateway.ledger.subscriptions.lifecycle import await_payment
from gateway.ledger.subscriptions.subscriptions import had_trial
from gateway.payments.provider import Provider, Purchase

ProviderName = Literal["stripe", "lemon_squeezy"]


class PaymentsNotConfigured(Exception):  # noqa: N818 - an answer (501), not a fault
    """Nothing is set up that could take a payment for this; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Till:
    """Empty where no provider is configured, and then selling raises PaymentsNotConfigured.

    `act` acts on a stored webhook event at once. `default` takes the payments of those who name no provider.
    """

    providers: Mapping[str, Provider] = field(default_factory=lambda: MappingProxyType({}))
    default: str | None = None
    packs: tuple[Pack, ...] = ()
    success_url: str | None = None
    cancel_url: str | None = None
    tax_rate: Decimal = Decimal(0)
    act: Callable[[UUID], Awaitable[None]] | None = None

    def provider(self, named: str | None = None) -> Provider:
        """Raises PaymentsNotConfigured."""
        wanted = named or self.default
        if wanted is None:
            raise PaymentsNotConfigured("This gateway takes no payments: no payment provider is configured.")
        if wanted not in self.providers:
            raise PaymentsNotConfigured(f"This gateway takes no payments by {wanted}.")
        return self.providers[wanted]

    def pack(self, named: str) -> Pack:
        for pack in self.packs:
            if pack.id == named:
                return pack
        known = ", ".join(pack.id for pack in self.packs) or "none"
        raise Invalid("pack", f"there is no pack {named!r}; for sale: {known}")


async def sell_plan(
    till: Till, database: Database, user: User, *, plan: StoredPlan, quantity: int, named: str | None, now: datetime
) -> Checkout:
    """Sends the user to pay for a subscription, which waits incomplete until then.

    Raises PaymentsNotConfigured, ProviderUnavailable, ProviderRefused.
    """
    provider = till.provider(named)
    _check_way_back(till)
    price_id = _price_of(provider, plan.terms.stripe_price_id, plan.terms.lemon_squeezy_variant_id, what=plan.id)
    async with database.transaction() as connection:
        waiting = await await_payment(
            connection, user.id, plan_id=plan.id, provider=provider.name, now=now, quantity=quantity
        )
        checkout = await open_checkout(
            connection,
            user.id,
            provider=provider.name,
            subscription_id=waiting.id,
            price_id=price_id,
            price=plan.terms.price,
            currency=plan.terms.currency,
        )
        trial_days = 0 if await had_trial(connection, user.id) else plan.terms.trial_period_days
    billed = 0 if plan.terms.pricing_model == "usage" else quantity
    return await _place(till, database, provider, user, checkout, quantity=billed, trial_days=trial_days)


async def sell_pack(till: Till, database: Database, user: User, *, pack: Pack, named: str | None) -> Checkout:
    """Sends the user to pay for credits. Raises PaymentsNotConfigured, ProviderUnavailable, ProviderRefused."""
    provider = till.provider(named)
    _check_way_back(till)
    price_id = _price_of(provider, pack.stripe_price_id, pack.lemon_squeezy_variant_id, what=pack.id)
    async with database.transaction() as connection:
        checkout = await open_checkout(
            connection,
            user.id,
            provider=provider.name,
            pack_id=pack.id,
            credits=pack.credits,
            price_id=price_id,
            price=pack.price,
            currency=pack.currency,
        )
    return await _place(till, database, provider, user, checkout, quantity=1)


async def look_up(till: Till, database: Database, user: User, *, checkout: Checkout) -> News | None:
    """What the provider says came of a checkout, for `take`; None before the provider has it."""
    if checkout.provider_checkout_id is None:
        return None
    async with database.read() as connection:
        fetched_at = await provider_sync.time_of_fetch(connection)
    snapshot = await till.provider(checkout.provider).fetch_checkout(
        checkout.provider_checkout_id, email=user.email, price_id=checkout.price_id, since=checkout.created_at
    )
    return News(checkout.provider, snapshot, fetched_at, reference=str(checkout.id))


async def customer_at(provider: Provider, database: Database, user: User) -> str:
    """The user's id at the provider, made there if need be."""
    async with database.read() as connection:
        known = await provider_customers.find(connection, user.id, provider=provider.name)
    if known is not None:
        return known
    made = await provider.create_customer(str(user.id), email=user.email, name=user.name)
    async with database.transaction() as connection:
        return await provider_customers.keep(connection, user.id, provider=provider.name, provider_customer_id=made)


def held_till(request: Request) -> Till:
    till: Till = request.app.state.till
    return till


TheTill = Annotated[Till, Depends(held_till)]


async def _place(
    till: Till,
    database: Database,
    provider: Provider,
    user: User,
    checkout: Checkout,
    *,
    quantity: int,
    trial_days: int = 0,
) -> Checkout:
    success_url, cancel_url = _way_back(till, checkout)
    made = await provider.create_checkout(
        Purchase(
            reference=str(checkout.id),
            price_id=checkout.price_id,
            is_subscription=checkout.subscription_id is not None,
            quantity=quantity,
            email=user.email,
            customer_id=await customer_at(provider, database, user),
            success_url=success_url,
            cancel_url=cancel_url,
            trial_days=trial_days,
        )
    )
    async with database.transaction() as connection:
        return await placed(connection, checkout.id, provider_checkout_id=made.id, url=made.url)


def _price_of(provider: Provider, stripe_price_id: str | None, variant_id: str | None, *, what: str) -> str:
    price_id = stripe_price_id if provider.name == "stripe" else variant_id
    if price_id is None:
        field_name = "stripe_price_id" if provider.name == "stripe" else "lemon_squeezy_variant_id"
        raise PaymentsNotConfigured(f"{what} cannot be paid for by {provider.name}: it has no {field_name}.")
    return price_id


def _way_back(till: Till, checkout: Checkout) -> tuple[str, str]:
    """Where the buyer returns to; the client learns from the query which checkout to confirm."""
    success_url = _check_way_back(till)
    joint = "&" if urlsplit(success_url).query else "?"
    back = f"{success_url}{joint}{urlencode({'checkout': str(checkout.id)})}"
    return back, till.cancel_url or success_url


def _check_way_back(till: Till) -> str:
    if till.success_url is None:
        raise PaymentsNotConfigured("billing.success_url is not set, so a buyer could not come back.")
    return till.success_url
