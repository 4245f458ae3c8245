"""Applies the fetched state of a provider's objects: subscription, payments, credits and invoices in one transaction.

Every effect sets a state and adds nothing, so applying an update twice changes nothing: rows are unique by the
provider's ids, a period's credits by the period, and credits that were taken back are counted on the payment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plans, provider_prices
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.payments import (
    checkouts,
    own_parts,
    payments,
    provider_customers,
    provider_sync,
    redemptions,
    top_ups,
)
from gateway.ledger.payments.checkouts import Checkout
from gateway.ledger.payments.own_parts import ProviderMismatch
from gateway.ledger.payments.payment_booking import PaymentPurpose, book
from gateway.ledger.payments.provider_subscriptions import sync_from_provider
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.lifecycle import await_payment
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.billing.invoicing import Period
from policies.billing.payments import (
    PaymentStatus,
    RemotePayment,
    RemoteSubscription,
    Snapshot,
    access_of,
    settlement_of,
)
from policies.billing.providers import ProviderTraits
from policies.model import PastDue


class ConnectionSource(Protocol):
    def read(self) -> AbstractAsyncContextManager[AsyncConnection]: ...


class Source(Protocol):
    """The provider that an update comes from."""

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> ProviderTraits: ...


@dataclass(frozen=True, slots=True)
class ProviderUpdate:
    """`fetched_at` is a time before the request. `reference` is the checkout's id, where the event carries it.

    `buyer_enters_email`: the customer of a purchase may differ from the account's.
    """

    provider: str
    snapshot: Snapshot
    fetched_at: datetime
    reference: str | None = None
    buyer_enters_email: bool = False

    @property
    def actor(self) -> str:
        return f"provider:{self.provider}"


async def fetch_update(
    database: ConnectionSource,
    provider: Source,
    fetch: Callable[[], Awaitable[Snapshot]],
    *,
    reference: str | None = None,
) -> ProviderUpdate:
    """Reads the database's clock, then fetches. Raises what `fetch` raises."""
    async with database.read() as connection:
        fetched_at = await provider_sync.database_time(connection)
    return ProviderUpdate(provider.name, await fetch(), fetched_at, reference, provider.traits.buyer_enters_email)


async def apply_update(connection: AsyncConnection, update: ProviderUpdate) -> bool:
    """Returns whether any object of it belongs to an account here.

    Raises ProviderMismatch, and what `sync_from_provider` raises.
    """
    is_known = False
    for subscription in update.snapshot.subscriptions:
        is_known |= await _apply_subscription(connection, update, subscription)
    for payment in update.snapshot.payments:
        is_known |= await _apply_payment(connection, update, payment)
    is_known |= await _apply_checkout(connection, update)
    is_known |= await _apply_card(connection, update)
    if customer_id := update.snapshot.gone_customer_id:
        owner = await _find_owner(connection, update, customer_id)
        is_known |= owner is not None
        if owner is not None:
            await top_ups.lose_card(connection, owner)
        await provider_customers.delete(connection, update.provider, provider_customer_id=customer_id)
    return is_known


async def _apply_subscription(connection: AsyncConnection, update: ProviderUpdate, remote: RemoteSubscription) -> bool:
    found = await subscriptions.get_by_provider(connection, update.provider, remote.id)
    if found is None:
        found = await _find_ordered(connection, update, remote)
    if found is None:
        return False
    await _check_customer(connection, update, found.user_id, customer_id=remote.customer_id)
    remote = await own_parts.choose_item(connection, update.provider, remote)
    if await _record_fetch(connection, update, "subscription", remote.id):
        await _sync(connection, update, await _lock_or_create(connection, update, found, remote), remote)
    return True


async def _sync(
    connection: AsyncConnection, update: ProviderUpdate, found: StoredSubscription, remote: RemoteSubscription
) -> None:
    price = await own_parts.get_price(connection, update.provider, remote.price_id)
    paid_until = Period(found.current_period_start, found.current_period_end)
    serves = (await plan_of(connection, found)).terms.past_due == PastDue.SERVE
    status, period = access_of(remote, stored=found.status, paid_until=paid_until, serves_past_due=serves)
    settlement = settlement_of(remote, stored=found.status, paid_until=paid_until, serves_past_due=serves)
    await sync_from_provider(
        connection,
        found.id,
        status=status,
        period_start=period.start,
        period_end=period.end,
        cancel_at_period_end=remote.is_ending,
        quantity=remote.quantity,
        settlement=settlement,
        next_change=await own_parts.find_next_change(connection, update.provider, remote),
        now=update.fetched_at,
        actor=update.actor,
        price=price,
        provider_subscription_id=remote.id,
    )


async def _find_ordered(
    connection: AsyncConnection, update: ProviderUpdate, remote: RemoteSubscription
) -> StoredSubscription | None:
    """The subscription that the remote one was bought for: by the checkout's id, else by buyer and price."""
    checkout = await _find_checkout(connection, update, remote.reference)
    if checkout is None:
        user_id = await _find_buyer(connection, update, remote.customer_id, remote.email)
        if user_id is None:
            return None
        remote = await own_parts.choose_item(connection, update.provider, remote)
        checkout = await checkouts.find_latest(connection, user_id, provider=update.provider, price_id=remote.price_id)
    if checkout is None or checkout.subscription_id is None:
        return None
    return await subscriptions.get(connection, checkout.subscription_id)


async def _lock_or_create(
    connection: AsyncConnection, update: ProviderUpdate, found: StoredSubscription, remote: RemoteSubscription
) -> StoredSubscription:
    """The found subscription, locked; a new one where the found one belongs to another remote subscription.

    Then the buyer paid twice, for instance in two windows, and the later subscription supersedes the earlier.
    """
    locked = await subscriptions.get_for_update(connection, found.id)
    if locked.provider_subscription_id in (None, remote.id):
        return locked
    price = await own_parts.get_price(connection, update.provider, remote.price_id)
    return await await_payment(
        connection,
        locked.user_id,
        plan_id=price.plan_id,
        provider=update.provider,
        now=update.fetched_at,
        may_be_deleted=True,
    )


async def _apply_payment(connection: AsyncConnection, update: ProviderUpdate, remote: RemotePayment) -> bool:
    remote = await own_parts.choose_line(connection, update.provider, remote)
    purpose = await _find_purpose(connection, update, remote)
    if purpose is None:
        return False
    await _check_customer(connection, update, purpose.user_id, customer_id=remote.customer_id)
    if await _record_fetch(connection, update, "payment", remote.id):
        await book(connection, update.provider, remote, purpose=purpose, now=update.fetched_at)
        if purpose.checkout is not None and remote.status is PaymentStatus.COMPLETED:
            await top_ups.settle(connection, purpose.checkout.id, error=None)
    return True


async def _find_purpose(
    connection: AsyncConnection, update: ProviderUpdate, remote: RemotePayment
) -> PaymentPurpose | None:
    if remote.subscription_id is not None:
        found = await subscriptions.get_by_provider(connection, update.provider, remote.subscription_id)
        if found is None:
            return None
        plan = await _find_paid_plan(connection, update, found, remote.price_id)
        bought_at = await _find_bought_at(connection, update, found, remote)
        return PaymentPurpose(found.user_id, subscription=found, plan=plan, bought_at=bought_at)
    booked = await payments.find(connection, update.provider, provider_payment_id=remote.id)
    if booked is not None and booked.grant_id is not None:
        return PaymentPurpose(booked.user_id, booked=booked)  # nothing may refer to its checkout any more
    checkout = await _find_checkout(connection, update, remote.reference)
    if checkout is None and (user_id := await _find_buyer(connection, update, remote.customer_id, remote.email)):
        checkout = await checkouts.find_latest(connection, user_id, provider=update.provider, price_id=remote.price_id)
    if checkout is None or checkout.pack_id is None:
        return None
    return PaymentPurpose(checkout.user_id, checkout=await _without_given_bonus(connection, checkout))


async def _find_bought_at(
    connection: AsyncConnection, update: ProviderUpdate, found: StoredSubscription, remote: RemotePayment
) -> Checkout | None:
    """The checkout that the provider names, of several that were begun for the subscription; else one of them."""
    sold = (each.reference for each in update.snapshot.subscriptions if each.id == remote.subscription_id)
    named = await _find_checkout(connection, update, next(sold, None))
    if named is not None and named.user_id == found.user_id:
        return named
    return await checkouts.find_for_subscription(connection, found.id)


async def _without_given_bonus(connection: AsyncConnection, checkout: Checkout) -> Checkout:
    """The bonus of a coupon comes with one payment; a checkout at Lemon Squeezy can be paid at again."""
    if bonus := await redemptions.lock_bonus(connection, checkout.id):
        latest = await checkouts.get(connection, checkout.id)
        if latest is not None and latest.status == "completed":
            return replace(checkout, credits=checkout.credits - bonus)
    return checkout


async def _apply_checkout(connection: AsyncConnection, update: ProviderUpdate) -> bool:
    remote = update.snapshot.checkout
    checkout = await _find_checkout(connection, update, remote.reference) if remote is not None else None
    if remote is None or checkout is None:
        return False
    if remote.is_over:
        await checkouts.close(connection, checkout.id, status="expired")
    if remote.is_complete:
        await redemptions.redeem(connection, checkout.id)
    return True


async def _apply_card(connection: AsyncConnection, update: ProviderUpdate) -> bool:
    is_known, card = False, update.snapshot.saved_card
    if card is not None and (owner := await _find_owner(connection, update, card.customer_id)):
        await top_ups.record_card(connection, owner, card)
        is_known = True
    if update.snapshot.gone_card_id is not None:
        is_known |= await top_ups.forget_card(connection, update.provider, method_id=update.snapshot.gone_card_id)
    return is_known


async def _find_checkout(
    connection: AsyncConnection, update: ProviderUpdate, object_reference: str | None
) -> Checkout | None:
    """By the reference of the object, else by that of the event."""
    for reference in (object_reference, update.reference):
        try:
            checkout = await checkouts.get(connection, UUID(reference or ""))
        except ValueError:
            continue
        if checkout is not None and checkout.provider == update.provider:
            return checkout
    return None


async def _find_buyer(
    connection: AsyncConnection, update: ProviderUpdate, customer_id: str, email: str | None
) -> UUID | None:
    user_id = await _find_owner(connection, update, customer_id)
    if user_id is None and email and update.buyer_enters_email:
        user = await users.get_by_email(connection, email)
        user_id = None if user is None else user.id
    return user_id


async def _find_owner(connection: AsyncConnection, update: ProviderUpdate, customer_id: str) -> UUID | None:
    return await provider_customers.find_user(connection, update.provider, provider_customer_id=customer_id)


async def _check_customer(
    connection: AsyncConnection, update: ProviderUpdate, user_id: UUID, *, customer_id: str
) -> None:
    owner = await _find_owner(connection, update, customer_id)
    if owner == user_id:
        return
    if owner is not None and not update.buyer_enters_email:
        raise ProviderMismatch(f"customer {customer_id} is user {owner}, but the purchase is of user {user_id}")
    known = await provider_customers.record(
        connection, user_id, provider=update.provider, provider_customer_id=customer_id
    )
    # With addresses that buyers enter, the customer may be another user's; the purchase decides whose it is.
    if known != customer_id and not update.buyer_enters_email:
        raise ProviderMismatch(f"user {user_id} is customer {known}, but the purchase is of customer {customer_id}")


async def _record_fetch(connection: AsyncConnection, update: ProviderUpdate, kind: str, object_id: str) -> bool:
    return await provider_sync.record_fetch(
        connection, update.provider, kind=kind, object_id=object_id, fetched_at=update.fetched_at
    )


async def _find_paid_plan(
    connection: AsyncConnection, update: ProviderUpdate, found: StoredSubscription, price_id: str | None
) -> StoredPlan | None:
    """The plan of the price: in the subscription's version if that is its plan, else in the version the price had."""
    price = await provider_prices.find(connection, update.provider, price_id=price_id)
    if price is None:
        return None
    if price.plan_id == found.plan_id:
        return await plan_of(connection, found)
    if price.last_version is not None:
        return await plans.get_version(connection, price.plan_id, price.last_version)
    return await plans.get(connection, price.plan_id)
