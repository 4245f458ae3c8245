"""Subscriptions that a provider bills: they are changed there first, then its state is applied, as after a webhook."""

from __future__ import annotations

from functools import partial
from typing import cast
from uuid import uuid4

from gateway.api.checkout import CheckoutService, plan_price_id
from gateway.api.errors import Conflict
from gateway.ledger.catalogue import plan_versions, provider_prices
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.payments.provider_updates import ConnectionSource, ProviderUpdate, fetch_update
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription
from gateway.payments.provider import PriceChange, Provider, SchedulingProvider
from policies.billing.payments import ObjectKind, ObjectRef
from policies.billing.providers import PROVIDERS
from policies.credits.allowances import has_seats


def is_free(terms: PlanTerms) -> bool:
    return terms.price == 0 and terms.pricing_model in ("flat", "per_seat") and terms.overage is None


def is_billed(subscription: StoredSubscription) -> bool:
    """Whether a provider has it; a subscription that was never paid for exists here alone."""
    return subscription.provider != MANUAL and subscription.provider_subscription_id is not None


def remote_id(subscription: StoredSubscription) -> str:
    return subscription.provider_subscription_id or ""


async def fetch_state(database: ConnectionSource, provider: Provider, found: StoredSubscription) -> ProviderUpdate:
    """What the provider has made of it, for `apply_update`. Raises ProviderUnavailable, ProviderRefused."""
    fetch = partial(provider.fetch, ObjectRef(ObjectKind.SUBSCRIPTION, remote_id(found)))
    return await fetch_update(database, provider, fetch)


async def change_at_provider(
    database: ConnectionSource,
    checkout_service: CheckoutService,
    found: StoredSubscription,
    *,
    plan: StoredPlan,
    quantity: int | None,
    at_period_end: bool,
) -> str | None:
    """Gives the page where the customer confirms the payment, which the change waits for; None: it is made.

    `quantity` None: as many seats as now. Raises Conflict for what the provider cannot do, PaymentsNotConfigured,
    ProviderUnavailable, ProviderRefused.
    """
    if is_free(plan.terms):
        raise Conflict("End this subscription; once it is over, subscribe to the free plan.")
    provider = checkout_service.provider(found.provider)
    if at_period_end and not provider.traits.schedules_changes:
        raise Conflict(f"{PROVIDERS[provider.name].title} changes plans at once only; leave out at_period_end.")
    change = await _price_change(database, provider, plan, seats=quantity or found.quantity)
    if not at_period_end:
        return await provider.change_plan(remote_id(found), change)
    await cast("SchedulingProvider", provider).schedule_change(remote_id(found), change)
    return None


async def undo_change_at_provider(checkout_service: CheckoutService, found: StoredSubscription) -> None:
    """Of one with a scheduled change. Raises ProviderUnavailable, ProviderRefused."""
    provider = checkout_service.provider(found.provider)
    await cast("SchedulingProvider", provider).unschedule_change(remote_id(found))


async def _price_change(database: ConnectionSource, provider: Provider, plan: StoredPlan, *, seats: int) -> PriceChange:
    async with database.read() as connection:
        sold_prices = await provider_prices.list_ids(connection, provider.name)
        overage_prices = await plan_versions.list_overage_prices(connection)
    quantity = seats if has_seats(plan.terms.pricing_model) else 1
    return PriceChange(
        price_id=plan_price_id(provider, plan),
        quantity=None if plan.terms.pricing_model == "usage" else quantity,
        # Of this request alone: Stripe would answer a later one as it did this, with an old card's refusal too.
        key=str(uuid4()),
        sold_prices=sold_prices,
        overage_price_id=plan.terms.overage_stripe_price_id,
        overage_prices=overage_prices,
    )
