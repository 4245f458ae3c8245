"""Starts, pauses, resumes and ends subscriptions on request; `renewals.py` does what becomes due.

Every command locks the account and bumps its version first, so the change holds from the next request on. It asks
the table of `policies.billing.subscriptions` whether the change is legal. Each raises NotFound for an unknown
subscription and IllegalTransition.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plan_versions, plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db import tables
from gateway.ledger.db.errors import InUse, NotFound
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.subscriptions import billing_spans, free_credits, overage, subscriptions
from gateway.ledger.subscriptions.allowances import open_period, plan_of, take_over_period
from gateway.ledger.subscriptions.free_credits import FreeCredits
from gateway.ledger.subscriptions.subscriptions import (
    MANUAL,
    IllegalTransition,
    StoredSubscription,
    get_for_update,
    transition,
)
from policies.billing.periods import BillingPeriod, PeriodLength, nth_period
from policies.billing.subscriptions import IllegalEvent, State, SubscriptionEvent
from policies.model import SubscriptionStatus


async def start(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    plan_id: str,
    now: datetime,
    actor: str = "system",
    quantity: int = 1,
    is_own_doing: bool = False,
    requires_verified: bool = False,
) -> StoredSubscription:
    """Starts an active subscription and grants its credits.

    Where it is the user's own doing, a free plan continues the period of a free one of the same person that ended
    early, so that nobody gets credits again by subscribing or registering again; and it withholds its credits while
    another account of the person has such a plan, or until the address is verified, if that is required. Raises
    NotFound for an unknown user or plan, AlreadyExists while another subscription is current.
    """
    plan, zone = await _lock_account(connection, user_id, plan_id)
    given = FreeCredits(None, None)
    if is_own_doing and plan.terms.price == 0:
        given = await free_credits.find(connection, user_id, now=now, requires_verified=requires_verified)
    span = (None if given.withheld else given.running) or nth_period(now, period_length(plan), zone=zone, number=0)
    started = await subscriptions.create(
        connection,
        **_terms(user_id, plan, span, quantity=quantity),
        status=SubscriptionStatus.ACTIVE,
        provider=MANUAL,
        credits_withheld=given.withheld,
    )
    if given.running or given.withheld:
        await take_over_period(connection, started, actor=actor)
    else:
        await open_period(connection, started, plan=plan, actor=actor)
    return started


async def start_trial(
    connection: AsyncConnection, user_id: UUID, *, plan_id: str, days: int, now: datetime, actor: str, quantity: int = 1
) -> StoredSubscription:
    """Starts the account's only trial, with the credits of a period; the plan's first period follows it.

    Raises AlreadyExists for a second trial (`uq_subscriptions_trial`) or while another subscription is current, and
    NotFound.
    """
    plan, zone = await _lock_account(connection, user_id, plan_id)
    span = nth_period(now, PeriodLength("day", days), zone=zone, number=0)
    trial = {"trial_start": span.start, "trial_end": span.end}
    started = await subscriptions.create(
        connection,
        **_terms(user_id, plan, span, quantity=quantity),
        **trial,
        status=SubscriptionStatus.TRIALING,
        provider=MANUAL,
    )
    await open_period(connection, started, plan=plan, actor=actor)
    return started


async def await_payment(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    plan_id: str,
    provider: str,
    now: datetime,
    quantity: int = 1,
    may_be_deleted: bool = False,
) -> StoredSubscription:
    """Creates an incomplete subscription without credits; the provider's state completes it.

    Another subscription may be current meanwhile. An incomplete one of the same plan and provider is reused. What was
    paid for at the provider has one though the account `may_be_deleted`, so that it is ended there.
    """
    plan, zone = await _lock_account(connection, user_id, plan_id, may_be_deleted=may_be_deleted)
    open_one = select(tables.subscriptions.c.id).where(
        tables.subscriptions.c.user_id == user_id,
        tables.subscriptions.c.plan_id == plan_id,
        tables.subscriptions.c.provider == provider,
        tables.subscriptions.c.status == SubscriptionStatus.INCOMPLETE,
        tables.subscriptions.c.provider_subscription_id.is_(None),
    )
    found: UUID | None = await connection.scalar(open_one.order_by(tables.subscriptions.c.id.desc()).limit(1))
    terms = _terms(user_id, plan, nth_period(now, period_length(plan), zone=zone, number=0), quantity=quantity)
    if found is not None:
        return await subscriptions.update(connection, found, **terms, created_at=now)
    return await subscriptions.create(
        connection, **terms, status=SubscriptionStatus.INCOMPLETE, provider=provider, created_at=now
    )


async def cancel(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, at_period_end: bool = True
) -> StoredSubscription:
    """Cancels at the period's end, or now. Granted credits stay until they expire.

    Raises InUse for a subscription that a provider bills, as one is that was paid for a moment ago: it ends there.
    """
    subscription = await get_for_update(connection, subscription_id)
    if subscription.provider != MANUAL and subscription.provider_subscription_id is not None:
        raise InUse(
            f"{subscription.provider} bills this subscription since a moment; repeat the request to end it there"
        )
    event = SubscriptionEvent.CANCEL_AT_PERIOD_END if at_period_end else SubscriptionEvent.CANCEL_NOW
    no_next = {"next_plan_id": None, "next_quantity": None}
    changes = transition(subscription, event)
    if not at_period_end:
        plan = await plan_of(connection, subscription)
        await billing_spans.end_span(connection, subscription, plan=plan, at=now, ends_period=True)
    return await subscriptions.update(
        connection,
        subscription_id,
        **changes,
        **no_next,
        past_due_since=subscription.past_due_since if at_period_end else None,
        canceled_at=subscription.canceled_at if at_period_end and subscription.canceled_at else now,
    )


async def undo_cancel(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """Lets the subscription renew after its period."""
    subscription = await get_for_update(connection, subscription_id)
    return await subscriptions.update(
        connection, subscription_id, **transition(subscription, SubscriptionEvent.UNDO_CANCEL), canceled_at=None
    )


async def pause(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """Refuses calls and starts no period until it is resumed; the current period goes on."""
    subscription = await get_for_update(connection, subscription_id)
    return await subscriptions.update(connection, subscription_id, **transition(subscription, SubscriptionEvent.PAUSE))


async def resume(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, actor: str
) -> StoredSubscription:
    """Continues the current period or, if that has ended, starts a new one at `now`."""
    subscription = await get_for_update(connection, subscription_id)
    changes = transition(subscription, SubscriptionEvent.RESUME)
    if now < subscription.current_period_end:
        return await subscriptions.update(connection, subscription_id, **changes)
    if subscription.cancel_at_period_end:  # the worker is yet to say so
        raise IllegalTransition(IllegalEvent(State(SubscriptionStatus.EXPIRED), SubscriptionEvent.RESUME, legal=()))
    return await renew(connection, subscription, anchor=now, actor=actor, **changes)


async def continue_reactivated(connection: AsyncConnection, user_id: UUID, *, now: datetime, actor: str) -> None:
    """Starts a period at `now` where the account's own ended while it was suspended; none is made up for."""
    found = await subscriptions.get_current(connection, user_id)
    if found is None or found.provider != MANUAL or found.cancel_at_period_end or now < found.current_period_end:
        return
    events = {
        SubscriptionStatus.TRIALING: SubscriptionEvent.TRIAL_ENDED,
        SubscriptionStatus.ACTIVE: SubscriptionEvent.PERIOD_ENDED,
    }
    if (event := events.get(found.status)) is not None:
        locked = await get_for_update(connection, found.id)
        await renew(connection, locked, anchor=now, actor=actor, **transition(locked, event))


async def renew(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    actor: str,
    span: BillingPeriod | None = None,
    anchor: datetime | None = None,
    **changes: object,
) -> StoredSubscription:
    """Starts the next period, `span` or one that begins at `anchor`, with the plan and seats scheduled for it."""
    terms: dict[str, object] = {}
    ends_at = span.start if span is not None else anchor or subscription.current_period_end
    plan = await plan_of(connection, subscription)
    await overage.bill(connection, subscription, plan=plan, at=ends_at, actor=actor)
    await billing_spans.end_span(connection, subscription, plan=plan, at=ends_at, ends_period=True)
    if subscription.next_plan_id is not None and subscription.next_plan_id != subscription.plan_id:
        terms = plan_columns(await get_plan(connection, subscription.next_plan_id))
    terms |= {"quantity": subscription.next_quantity or subscription.quantity}
    terms |= {"next_plan_id": None, "next_quantity": None}
    await plan_versions.unpin_after_period(connection, subscription.id)
    renewed = await subscriptions.update(connection, subscription.id, **terms, **changes)
    plan = await plan_of(connection, renewed)
    if span is None:
        zone = await time_zone_of(connection, renewed.user_id)
        span = nth_period(anchor or renewed.current_period_end, period_length(plan), zone=zone, number=0)
    renewed = await subscriptions.update(connection, renewed.id, **_of_period(span))
    await open_period(connection, renewed, plan=plan, actor=actor)
    return renewed


def period_length(plan: StoredPlan) -> PeriodLength:
    return PeriodLength(plan.terms.billing_interval, plan.terms.billing_interval_count)


async def time_zone_of(connection: AsyncConnection, user_id: UUID) -> ZoneInfo:
    """The account's time zone; UTC for a name that the time zone database no longer has."""
    name: str | None = await connection.scalar(select(tables.users.c.time_zone).where(tables.users.c.id == user_id))
    try:
        return ZoneInfo(name or "UTC")
    except (LookupError, ValueError, OSError):
        return ZoneInfo("UTC")


async def _lock_account(
    connection: AsyncConnection, user_id: UUID, plan_id: str, *, may_be_deleted: bool = False
) -> tuple[StoredPlan, ZoneInfo]:
    """Locks the account; gives the plan and the account's time zone. Raises NotFound, once it is deleted too."""
    plan = await get_plan(connection, plan_id)
    await bump_account(connection, user_id)
    deleted_at = select(tables.users.c.deleted_at).where(tables.users.c.id == user_id)
    found = (await connection.execute(deleted_at)).one_or_none()
    if found is None or (found.deleted_at is not None and not may_be_deleted):
        raise NotFound("user", user_id)
    return plan, await time_zone_of(connection, user_id)


async def get_plan(connection: AsyncConnection, plan_id: str) -> StoredPlan:
    plan = await plans.get(connection, plan_id)
    if plan is None:
        raise NotFound("plan", plan_id)
    return plan


def _terms(user_id: UUID, plan: StoredPlan, span: BillingPeriod, *, quantity: int) -> dict[str, object]:
    return {"user_id": user_id, "quantity": quantity, **plan_columns(plan), **_of_period(span)}


def plan_columns(plan: StoredPlan) -> dict[str, object]:
    return {"plan_id": plan.id, "plan_version": plan.version, "keeps_version": False}


def _of_period(span: BillingPeriod) -> dict[str, object]:
    return {"period_anchor": span.anchor, "current_period_start": span.start, "current_period_end": span.end}
