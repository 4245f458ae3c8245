"""Applies what the clock makes due: renewals, and the ends of trials, grace, checkouts and canceled subscriptions.

One subscription advances in one transaction. Missed events are applied one by one, so after a month of downtime each
period has had its credits and its expiry, only later. A suspended account begins no period. PostgreSQL must have the
usage up to `now` before (`workers/billing/renewals.py` ensures it), since used credits do not expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plan_versions import unpin_after_period
from gateway.ledger.catalogue.plans import get as get_plan
from gateway.ledger.credits import expiry
from gateway.ledger.db.tables import users
from gateway.ledger.subscriptions import advances, billing_spans, overage
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.lifecycle import period_length, renew, time_zone_of
from gateway.ledger.subscriptions.subscriptions import (
    MANUAL,
    StoredSubscription,
    get_existing,
    get_for_update,
    transition,
    update,
)
from policies.billing.periods import next_period
from policies.billing.subscriptions import CHECKOUT_LIFETIME, Schedule, SubscriptionEvent, due_event
from policies.model import AccountStatus, SubscriptionStatus

ACTOR = "worker:subscriptions"

# More than a year of daily periods; the next run continues.
MAX_EVENTS_PER_RUN = 400


@dataclass(frozen=True, slots=True)
class DueSubscription:
    subscription_id: UUID
    user_id: UUID


async def find_due(
    connection: AsyncConnection, *, now: datetime, grace: timedelta, limit: int, exclude: Sequence[UUID] = ()
) -> tuple[DueSubscription, ...]:
    """Subscriptions with a due event, without `exclude`. Another worker may apply the event meanwhile."""
    times = {"now": now, "graced": now - grace, "abandoned": now - CHECKOUT_LIFETIME}
    rows = await connection.execute(_DUE, {**times, "limit": limit, "exclude": list(exclude)})
    return tuple(DueSubscription(row.id, row.user_id) for row in rows)


async def try_lock(connection: AsyncConnection, user_id: UUID) -> bool:
    """Locks the account, as every change of its subscriptions does first; False if another transaction has it."""
    query = select(users.c.id).where(users.c.id == user_id).with_for_update(skip_locked=True, key_share=True)
    return (await connection.scalar(query)) is not None


async def advance(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, grace: timedelta, actor: str = ACTOR
) -> int:
    """Applies the events that are due by `now`; gives how many. Raises NotFound."""
    if _due_event(await get_existing(connection, subscription_id), now=now, grace=grace) is None:
        return 0
    subscription = await get_for_update(connection, subscription_id)
    if not subscription.cancel_at_period_end and await _begins_no_period(connection, subscription):
        return 0
    for done in range(MAX_EVENTS_PER_RUN):
        event = _due_event(subscription, now=now, grace=grace)
        if event is None:
            return done
        subscription = await _apply(connection, subscription, event, grace=grace, actor=actor)
    return MAX_EVENTS_PER_RUN


_NOT_EXCLUDED = "id <> ALL(CAST(:exclude AS uuid[]))"
_IS_SUSPENDED = "EXISTS (SELECT FROM users u WHERE u.id = subscriptions.user_id AND u.status = 'suspended')"
# Each part uses an index. A provider renews its own subscriptions; only those that are ending are due here.
_DUE = text(f"""
    (SELECT id, user_id FROM subscriptions
      WHERE status IN ('trialing', 'active', 'past_due', 'paused') AND current_period_end <= :now
        AND {_NOT_EXCLUDED} AND (cancel_at_period_end
            OR (provider = '{MANUAL}' AND status IN ('trialing', 'active') AND NOT {_IS_SUSPENDED}))
      ORDER BY current_period_end LIMIT :limit)
    UNION
    (SELECT id, user_id FROM subscriptions
      WHERE status = 'past_due' AND coalesce(past_due_since, current_period_end) <= :graced
        AND {_NOT_EXCLUDED} LIMIT :limit)
    UNION
    (SELECT id, user_id FROM subscriptions
      WHERE status = 'incomplete' AND created_at <= :abandoned AND {_NOT_EXCLUDED} LIMIT :limit)
""")  # noqa: S608 - made of constants


def _due_event(subscription: StoredSubscription, *, now: datetime, grace: timedelta) -> SubscriptionEvent | None:
    times = Schedule(
        created_at=subscription.created_at,
        period_end=subscription.current_period_end,
        past_due_since=subscription.past_due_since,
        is_manual=subscription.provider == MANUAL,
    )
    return due_event(subscription.state, times, now=now, grace=grace)


async def _begins_no_period(connection: AsyncConnection, subscription: StoredSubscription) -> bool:
    """Of an account that is suspended; `lifecycle.continue_reactivated` begins its next period."""
    if subscription.provider != MANUAL or subscription.status not in _RENEWED:
        return False
    status = await connection.scalar(select(users.c.status).where(users.c.id == subscription.user_id))
    return bool(status == AccountStatus.SUSPENDED)


_RENEWED = (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE)


async def end_halted_period(connection: AsyncConnection, subscription_id: UUID, *, now: datetime) -> None:
    """Ends the period of a subscription that begins no other, for its invoice; the subscription stays as it is."""
    subscription = await get_existing(connection, subscription_id)
    if subscription.current_period_end <= now:
        plan, end = await plan_of(connection, subscription), subscription.current_period_end
        await billing_spans.end_span(connection, subscription, plan=plan, at=end, ends_period=True)


async def count_usage(connection: AsyncConnection, subscription_id: UUID, *, now: datetime) -> None:
    """Counts the usage of a long period so far; it is invoiced when the period ends."""
    subscription = await get_existing(connection, subscription_id)
    plan = await plan_of(connection, subscription)
    await billing_spans.end_span(connection, subscription, plan=plan, at=now, ends_period=False)
    await billing_spans.count(connection, subscription, now=now)


async def _apply(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    event: SubscriptionEvent,
    *,
    grace: timedelta,
    actor: str,
) -> StoredSubscription:
    changes = transition(subscription, event)
    ended, end = await plan_of(connection, subscription), subscription.current_period_end
    await billing_spans.end_span(connection, subscription, plan=ended, at=end, ends_period=True)
    if changes["status"] is not SubscriptionStatus.ACTIVE:
        await advances.take_back(connection, subscription, actor=actor)
        return await update(connection, subscription.id, **changes)
    # Credits expire before the next period's credits are granted, also when both are late.
    await expiry.apply_due(connection, subscription.user_id, now=end, grace=grace, actor=actor)
    await overage.bill(connection, subscription, plan=ended, at=end, actor=actor)  # before it follows its plan again
    if await unpin_after_period(connection, subscription.id):
        subscription = await get_existing(connection, subscription.id)
    plan = await plan_of(connection, subscription)
    if subscription.next_plan_id not in (None, subscription.plan_id):
        plan = await get_plan(connection, subscription.next_plan_id) or plan
    anchor = end if event is SubscriptionEvent.TRIAL_ENDED else subscription.period_anchor
    zone = await time_zone_of(connection, subscription.user_id)
    span = next_period(anchor, period_length(plan), zone=zone, end=end)
    return await renew(connection, subscription, span=span, actor=actor, **changes)
