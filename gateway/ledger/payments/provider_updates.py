"""What a provider says now becomes what we hold: subscription, payments, credits and invoices in one transaction.

Everything here says what is to hold, never what is to be added, so that hearing it twice changes nothing: rows are
unique by the provider's ids, a period's credits by the period, and what is taken back is counted on the payment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import users
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.tables import subscription_plans
from gateway.ledger.payments import checkouts, payments, provider_customers, provider_sync
from gateway.ledger.payments.checkouts import Checkout
from gateway.ledger.payments.payment_booking import PaidFor, book
from gateway.ledger.payments.provider_subscriptions import sync_from_provider
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.lifecycle import await_payment
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from policies.billing.invoicing import Period
from policies.billing.payments import RemotePayment, RemoteSubscription, Snapshot, access_of

_PRICE_COLUMNS = {
    "stripe": subscription_plans.c.stripe_price_id,
    "lemon_squeezy": subscription_plans.c.lemon_squeezy_variant_id,
}

# Where the buyer names the customer by an address at the checkout, instead of us before it.
_BUYER_NAMES_CUSTOMER = frozenset({"lemon_squeezy"})


class Mismatch(Exception):  # noqa: N818 - a state of the world that a person must look at
    """What the provider says does not fit what we know; nothing of it is taken."""


@dataclass(frozen=True, slots=True)
class News:
    """`fetched_at` is from before the provider was asked. `reference` is our checkout's id, as the message told it."""

    provider: str
    snapshot: Snapshot
    fetched_at: datetime
    reference: str | None = None

    @property
    def actor(self) -> str:
        return f"provider:{self.provider}"


async def take(connection: AsyncConnection, news: News) -> bool:
    """Whether any of it is ours. Raises Mismatch, and what syncing a subscription raises."""
    is_ours = False
    for subscription in news.snapshot.subscriptions:
        is_ours |= await _take_subscription(connection, news, subscription)
    for payment in news.snapshot.payments:
        is_ours |= await _take_payment(connection, news, payment)
    is_ours |= await _take_checkout(connection, news)
    if gone := news.snapshot.gone_customer_id:
        is_ours |= await _owner(connection, news, gone) is not None
        await provider_customers.forget(connection, news.provider, provider_customer_id=gone)
    return is_ours


async def _take_subscription(connection: AsyncConnection, news: News, remote: RemoteSubscription) -> bool:
    found = await subscriptions.get_by_provider(connection, news.provider, remote.id)
    if found is None:
        found = await _awaiting(connection, news, remote)
    if found is None:
        return False
    await _check_customer(connection, news, found.user_id, customer_id=remote.customer_id)
    if await _is_freshest(connection, news, "subscription", remote.id):
        await _sync(connection, news, await _its_own(connection, news, found, remote), remote)
    return True


async def _sync(connection: AsyncConnection, news: News, found: StoredSubscription, remote: RemoteSubscription) -> None:
    plan = await _plan_of(connection, news.provider, remote.price_id)
    kept = Period(found.current_period_start, found.current_period_end)
    status, period = access_of(remote, stored=found.status, paid_until=kept)
    await sync_from_provider(
        connection,
        found.id,
        status=status,
        period_start=period.start,
        period_end=period.end,
        cancel_at_period_end=remote.cancel_at_period_end,
        quantity=remote.quantity,
        now=news.fetched_at,
        actor=news.actor,
        plan_id=plan.id,
        provider_subscription_id=remote.id,
    )


async def _awaiting(connection: AsyncConnection, news: News, remote: RemoteSubscription) -> StoredSubscription | None:
    """The subscription that this one was begun for, by our reference, else by who bought what."""
    checkout = await _checkout(connection, news, remote.reference)
    if checkout is None:
        user_id = await _buyer(connection, news, remote.customer_id, remote.email)
        if user_id is None:
            return None
        checkout = await checkouts.newest_for(connection, user_id, provider=news.provider, price_id=remote.price_id)
    if checkout is None or checkout.subscription_id is None:
        return None
    return await subscriptions.get(connection, checkout.subscription_id)


async def _its_own(
    connection: AsyncConnection, news: News, found: StoredSubscription, remote: RemoteSubscription
) -> StoredSubscription:
    """The subscription that was begun for the remote one, locked; one more where it has become another's.

    Then it was paid for twice, as from two windows; the later takes over as any other of the account's does.
    """
    held = await subscriptions.get_for_update(connection, found.id)
    if held.provider_subscription_id in (None, remote.id):
        return held
    plan = await _plan_of(connection, news.provider, remote.price_id)
    return await await_payment(connection, held.user_id, plan_id=plan.id, provider=news.provider, now=news.fetched_at)


async def _take_payment(connection: AsyncConnection, news: News, remote: RemotePayment) -> bool:
    paid_for = await _paid_for(connection, news, remote)
    if paid_for is None:
        return False
    await _check_customer(connection, news, paid_for.user_id, customer_id=remote.customer_id)
    if await _is_freshest(connection, news, "payment", remote.id):
        await book(connection, news.provider, remote, paid_for=paid_for, now=news.fetched_at)
    return True


async def _paid_for(connection: AsyncConnection, news: News, remote: RemotePayment) -> PaidFor | None:
    if remote.subscription_id is not None:
        found = await subscriptions.get_by_provider(connection, news.provider, remote.subscription_id)
        if found is None:
            return None
        plan = await _find_plan(connection, news.provider, remote.price_id)
        return PaidFor(found.user_id, subscription=found, plan=plan)
    known = await payments.find(connection, news.provider, provider_payment_id=remote.id)
    if known is not None and known.grant_id is not None:
        return PaidFor(known.user_id, known=known)  # its checkout is over, and may be named by nothing any more
    checkout = await _checkout(connection, news, remote.reference)
    if checkout is None and (user_id := await _buyer(connection, news, remote.customer_id, remote.email)):
        checkout = await checkouts.newest_for(connection, user_id, provider=news.provider, price_id=remote.price_id)
    if checkout is None or checkout.pack_id is None:
        return None
    return PaidFor(checkout.user_id, checkout=checkout)


async def _take_checkout(connection: AsyncConnection, news: News) -> bool:
    remote = news.snapshot.checkout
    checkout = await _checkout(connection, news, remote.reference) if remote is not None else None
    if remote is None or checkout is None:
        return False
    if remote.is_over:
        await checkouts.close(connection, checkout.id, status="expired")
    return True


async def _checkout(connection: AsyncConnection, news: News, named: str | None) -> Checkout | None:
    """By the reference on the object itself, else by that of the message."""
    for reference in (named, news.reference):
        try:
            checkout = await checkouts.get(connection, UUID(reference or ""))
        except ValueError:
            continue
        if checkout is not None and checkout.provider == news.provider:
            return checkout
    return None


async def _buyer(connection: AsyncConnection, news: News, customer_id: str, email: str | None) -> UUID | None:
    user_id = await _owner(connection, news, customer_id)
    if user_id is None and email and news.provider in _BUYER_NAMES_CUSTOMER:
        user = await users.get_by_email(connection, email)
        user_id = None if user is None else user.id
    return user_id


async def _owner(connection: AsyncConnection, news: News, customer_id: str) -> UUID | None:
    return await provider_customers.owner(connection, news.provider, provider_customer_id=customer_id)


async def _check_customer(connection: AsyncConnection, news: News, user_id: UUID, *, customer_id: str) -> None:
    owner = await _owner(connection, news, customer_id)
    if owner == user_id:
        return
    if news.provider in _BUYER_NAMES_CUSTOMER:
        # One customer per address, and it may have been another user's before: what was bought says whose it is.
        await provider_customers.keep(connection, user_id, provider=news.provider, provider_customer_id=customer_id)
        return
    if owner is not None:
        raise Mismatch(f"customer {customer_id} is user {owner}, and this was begun by user {user_id}")
    known = await provider_customers.keep(connection, user_id, provider=news.provider, provider_customer_id=customer_id)
    if known != customer_id:
        raise Mismatch(f"user {user_id} is customer {known}, and this is of customer {customer_id}")


async def _is_freshest(connection: AsyncConnection, news: News, kind: str, object_id: str) -> bool:
    return await provider_sync.is_freshest(
        connection, news.provider, kind=kind, object_id=object_id, fetched_at=news.fetched_at
    )


async def _plan_of(connection: AsyncConnection, provider: str, price_id: str) -> StoredPlan:
    plan = await _find_plan(connection, provider, price_id)
    if plan is None:
        raise Mismatch(f"{price_id} is the price of no plan: give a plan this id, then replay the event")
    return plan


async def _find_plan(connection: AsyncConnection, provider: str, price_id: str | None) -> StoredPlan | None:
    found: str | None = await connection.scalar(
        select(subscription_plans.c.id).where(_PRICE_COLUMNS[provider] == price_id)
    )
    return None if found is None else await plans.get(connection, found)
