"""Sells plans and packs: creates checkouts at the configured payment providers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Annotated, TypeVar
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from fastapi import Depends, Request
from pydantic import AfterValidator, Field

from gateway.api.errors import Conflict, Invalid, Throttled
from gateway.api.selling import coupons
from gateway.api.selling.coupons import HeldCoupon
from gateway.config.plans import Pack
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.db.session import Database
from gateway.ledger.payments import checkouts, provider_customers, redemptions
from gateway.ledger.payments.checkouts import Checkout
from gateway.ledger.payments.provider_updates import ProviderUpdate, fetch_update
from gateway.ledger.subscriptions.free_credits import had_trial
from gateway.ledger.subscriptions.lifecycle import await_payment
from gateway.paced_subjects import PacedSubjects
from gateway.payments.provider import CheckoutRequest, Provider, ProviderRefused
from policies.access.throttling import PROVIDER_CALLS_OF_ACCOUNT
from policies.billing.coupons import Purchase
from policies.billing.issuing import Issuer
from policies.billing.providers import PROVIDERS, provider_ids
from policies.credits.allowances import has_seats

_T = TypeVar("_T")
_provider_calls = PacedSubjects(PROVIDER_CALLS_OF_ACCOUNT)


def _known_provider(name: str) -> str:
    if name not in PROVIDERS:
        raise ValueError(f"must be one of {', '.join(PROVIDERS)}")
    return name


ProviderName = Annotated[str, AfterValidator(_known_provider), Field(json_schema_extra={"enum": list(PROVIDERS)})]


class PaymentsNotConfigured(Exception):  # noqa: N818 - an answer (501), not a fault
    """No configured provider can take this payment; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class CheckoutService:
    """The configured providers and what is for sale; without a provider every sale raises PaymentsNotConfigured.

    `default` is the provider of buyers who name none. `process_event` processes a stored webhook event at once.
    `requires_verified`: free credits and trials wait for a verified address.
    """

    providers: Mapping[str, Provider] = field(default_factory=lambda: MappingProxyType({}))
    default: str | None = None
    packs: tuple[Pack, ...] = ()
    success_url: str | None = None
    cancel_url: str | None = None
    portal_return_url: str | None = None
    issuer: Issuer = field(default_factory=Issuer)
    process_event: Callable[[UUID], Awaitable[None]] | None = None
    requires_verified: bool = False

    def provider(self, name: str | None = None) -> Provider:
        """Raises PaymentsNotConfigured."""
        wanted = name or self.default
        if wanted is None:
            raise PaymentsNotConfigured("This gateway takes no payments: no payment provider is configured.")
        if wanted not in self.providers:
            raise PaymentsNotConfigured(f"This gateway takes no payments by {wanted}.")
        return self.providers[wanted]

    def pack(self, pack_id: str) -> Pack:
        for pack in self.packs:
            if pack.id == pack_id:
                return pack
        known = ", ".join(pack.id for pack in self.packs) or "none"
        raise Invalid("pack", f"there is no pack {pack_id!r}; for sale: {known}")

    def return_url(self) -> str:
        """Raises PaymentsNotConfigured."""
        if self.success_url is None:
            raise PaymentsNotConfigured("billing.success_url is not set, so a buyer could not come back.")
        return self.success_url

    def portal_return(self, requested: str | None) -> str:
        """Where a customer comes back to from the portal: to the page asked for, of a site that is configured.

        Raises Invalid for another site, PaymentsNotConfigured.
        """
        default = self.portal_return_url or self.return_url()
        sites = {_site(url) for url in (self.portal_return_url, self.success_url, self.cancel_url) if url is not None}
        if requested is None:
            return default
        if _site(requested) not in sites:
            raise Invalid("return_url", f"must be a page of {', '.join(sorted(sites))}")
        return requested


@dataclass(frozen=True, slots=True)
class Sale:
    """Who buys, and through whom; `provider` None: the default."""

    checkout_service: CheckoutService
    database: Database
    user: User
    provider: str | None = None


def pace_provider_calls(user: User) -> None:
    """Before what a customer has a provider asked. Raises Throttled, so that nobody uses up what others need."""
    if not _provider_calls.take(user.id):
        raise Throttled(math.ceil(PROVIDER_CALLS_OF_ACCOUNT.seconds_each))


async def create_plan_checkout(
    sale: Sale, plan: StoredPlan, *, quantity: int, now: datetime, coupon: str | None = None
) -> Checkout:
    """Creates a subscription that is incomplete until it is paid for, and the checkout to pay at.

    Raises PaymentsNotConfigured, ProviderUnavailable, ProviderRefused, Conflict for a trial of an unverified user, and
    Invalid for a coupon that does not hold.
    """
    provider = sale.checkout_service.provider(sale.provider)
    sale.checkout_service.return_url()
    price_id = plan_price_id(provider, plan)
    held = await _hold(sale, provider, coupon, offer=coupons.offer_of_plan(plan, quantity=quantity), now=now)
    async with sale.database.transaction() as connection:
        waiting = await await_payment(
            connection, sale.user.id, plan_id=plan.id, provider=provider.name, now=now, quantity=quantity
        )
        checkout = await checkouts.create(
            connection,
            sale.user.id,
            provider=provider.name,
            subscription_id=waiting.id,
            price_id=price_id,
            price=plan.terms.price,
            currency=plan.terms.currency,
        )
        if held is not None:
            await coupons.reserve(connection, held, checkout)
        trial_days = 0 if await had_trial(connection, sale.user.id) else plan.terms.trial_period_days
        if trial_days and sale.checkout_service.requires_verified and sale.user.email_verified_at is None:
            raise Conflict("A trial needs a verified address; POST /me/verify-email sends the mail again.")
    return await _create_at_provider(
        sale, checkout, quantity=quantity, held=held, trial_days=trial_days, terms=plan.terms
    )


async def create_pack_checkout(sale: Sale, pack: Pack, *, now: datetime, coupon: str | None = None) -> Checkout:
    """Creates the checkout of a pack, whose credits include those that a coupon gives.

    Raises PaymentsNotConfigured, ProviderUnavailable, ProviderRefused, and Invalid for a coupon that does not hold.
    """
    provider = sale.checkout_service.provider(sale.provider)
    sale.checkout_service.return_url()
    price_id = _require_price_id(provider, provider_ids(pack), sold=pack.id)
    held = await _hold(sale, provider, coupon, offer=coupons.offer_of_pack(pack), now=now)
    async with sale.database.transaction() as connection:
        checkout = await checkouts.create(
            connection,
            sale.user.id,
            provider=provider.name,
            pack_id=pack.id,
            credits=pack.credits + (0 if held is None else held.bonus_credits),
            price_id=price_id,
            price=pack.price,
            currency=pack.currency,
        )
        if held is not None:
            await coupons.reserve(connection, held, checkout)
    return await _create_at_provider(sale, checkout, quantity=1, held=held)


def check_seats(plan: StoredPlan, quantity: int | None) -> None:
    """Raises Invalid for seats of a plan that has none: they would multiply the price, and nothing else."""
    if quantity not in (None, 1) and not has_seats(plan.terms.pricing_model):
        raise Invalid("quantity", f"is for plans that are priced by seats; {plan.id} is {plan.terms.pricing_model}")


def plan_price_id(provider: Provider, plan: StoredPlan) -> str:
    """Raises PaymentsNotConfigured for a plan that the provider does not sell, or whose overage it cannot bill."""
    overage = plan.terms.overage
    can_bill = provider.traits.metered_usage is not None and plan.terms.overage_stripe_price_id is not None
    if overage is not None and overage.price is not None and not can_bill:
        raise PaymentsNotConfigured(f"{plan.id} cannot be paid for by {provider.name}: its overage has no price there.")
    return _require_price_id(provider, plan.terms.provider_ids, sold=plan.id)


async def fetch_checkout_update(sale: Sale, checkout: Checkout) -> ProviderUpdate | None:
    """The outcome of a checkout, for `apply_update`; None before the provider has it."""
    if checkout.provider_checkout_id is None:
        return None
    provider = sale.checkout_service.provider(checkout.provider)
    fetch = partial(
        provider.fetch_checkout,
        checkout.provider_checkout_id,
        email=sale.user.email,
        price_id=checkout.price_id,
        since=checkout.created_at,
    )
    return await fetch_update(sale.database, provider, fetch, reference=str(checkout.id))


async def with_customer(provider: Provider, database: Database, user: User, call: Callable[[str], Awaitable[_T]]) -> _T:
    """Makes a call with the user's id at the provider; once more with another where the provider has deleted that one,
    or has it in another mode (test, live)."""
    customer_id = await ensure_customer(provider, database, user)
    try:
        return await call(customer_id)
    except ProviderRefused as refused:
        if not refused.is_customer_missing:
            raise
    async with database.transaction() as connection:
        await provider_customers.delete(connection, provider.name, provider_customer_id=customer_id)
    return await call(await ensure_customer(provider, database, user, replaces=customer_id))


async def ensure_customer(provider: Provider, database: Database, user: User, *, replaces: str | None = None) -> str:
    """The user's id at the provider, which creates the customer if it is missing."""
    async with database.read() as connection:
        known = await provider_customers.find(connection, user.id, provider=provider.name)
    if known is not None:
        return known
    created = await provider.create_customer(str(user.id), email=user.email, name=user.name, replaces=replaces)
    async with database.transaction() as connection:
        return await provider_customers.record(
            connection, user.id, provider=provider.name, provider_customer_id=created
        )


def get_checkout_service(request: Request) -> CheckoutService:
    service: CheckoutService = request.app.state.checkout_service
    return service


CheckoutServiceDep = Annotated[CheckoutService, Depends(get_checkout_service)]


async def _hold(
    sale: Sale, provider: Provider, code: str | None, *, offer: Purchase, now: datetime
) -> HeldCoupon | None:
    if code is None:
        return None
    return await coupons.hold(sale.database, provider, code, user_id=sale.user.id, offer=offer, now=now)


async def _create_at_provider(
    sale: Sale,
    checkout: Checkout,
    *,
    quantity: int,
    held: HeldCoupon | None,
    trial_days: int = 0,
    terms: PlanTerms | None = None,
) -> Checkout:
    provider = sale.checkout_service.provider(checkout.provider)
    success_url, cancel_url = _return_urls(sale.checkout_service, checkout)
    request = CheckoutRequest(
        reference=str(checkout.id),
        price_id=checkout.price_id,
        is_subscription=checkout.subscription_id is not None,
        quantity=quantity,
        email=sale.user.email,
        customer_id=None,
        success_url=success_url,
        cancel_url=cancel_url,
        trial_days=trial_days,
        is_metered=terms is not None and terms.pricing_model == "usage",
        overage_price_id=None if terms is None else terms.overage_stripe_price_id,
        expires_at=None if held is None else held.expires_at,
        discount=None if held is None else held.discount(checkout),
    )
    try:
        created = await with_customer(
            provider,
            sale.database,
            sale.user,
            lambda customer_id: provider.create_checkout(replace(request, customer_id=customer_id)),
        )
    except ProviderRefused:
        async with sale.database.transaction() as connection:
            await redemptions.release(connection, checkout.id)
        raise
    async with sale.database.transaction() as connection:
        if held is not None:
            await coupons.keep(connection, checkout, provider)
        return await checkouts.record_at_provider(
            connection, checkout.id, provider_checkout_id=created.id, url=created.url
        )


def _site(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _require_price_id(provider: Provider, ids: Mapping[str, str], *, sold: str) -> str:
    names = PROVIDERS[provider.name]
    price_id = ids.get(names.price_field)
    if price_id is None:
        raise PaymentsNotConfigured(f"{sold} cannot be paid for by {names.name}: it has no {names.price_field}.")
    return price_id


def _return_urls(service: CheckoutService, checkout: Checkout) -> tuple[str, str]:
    """After success and after a cancellation; the former carries the id of the checkout to confirm."""
    success_url = service.return_url()
    separator = "&" if urlsplit(success_url).query else "?"
    with_id = f"{success_url}{separator}{urlencode({'checkout': str(checkout.id)})}"
    return with_id, service.cancel_url or success_url
