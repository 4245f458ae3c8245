"""What the clock brings to subscriptions: the next period, the end of a trial, of a grace, of one that was to end.

One account's turn is one transaction. What was missed, however long ago, is made up for event by event, so a month of
downtime gives each period its credits and its expiry as a month of service does, only later. Usage up to `now` must be
here before (`workers/billing/renewals.py` sees to that): what was used cannot expire. What was served during the
downtime was taken from the credits that were there then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import get as get_plan
from gateway.ledger.credits import expiry
from gateway.ledger.db.tables import users
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
from policies.billing.subscriptions import CHECKOUT_LIFETIME, Event, Schedule, due_event
from policies.model import SubscriptionStatus

ACTOR = "worker:subscriptions"

# More than a year of days; what is left is done in the next turn.
EVENTS_PER_TURN = 400


@dataclass(frozen=True, slots=True)
class Due:
    subscription_id: UUID
    user_id: UUID


async def find_due(
    connection: AsyncConnection, *, now: datetime, grace: timedelta, limit: int, but: Sequence[UUID] = ()
) -> tuple[Due, ...]:
    """Subscriptions that something is due for, `but` for these; it may be done by the time one looks."""
    times = {"now": now, "graced": now - grace, "abandoned": now - CHECKOUT_LIFETIME}
    rows = await connection.execute(_DUE, {**times, "limit": limit, "but": list(but)})
    return tuple(Due(row.id, row.user_id) for row in rows)


async def try_lock(connection: AsyncConnection, user_id: UUID) -> bool:
    """Takes the lock of the account that every change of its subscriptions begins with, unless it is taken."""
    query = select(users.c.id).where(users.c.id == user_id).with_for_update(skip_locked=True, key_share=True)
    return (await connection.scalar(query)) is not None


async def turn(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, grace: timedelta, actor: str = ACTOR
) -> int:
    """Brings the subscription to where it stands at `now`; gives how many events that were. Raises NotFound."""
    if _event(await get_existing(connection, subscription_id), now=now, grace=grace) is None:
        return 0
    subscription = await get_for_update(connection, subscription_id)
    for done in range(EVENTS_PER_TURN):
        event = _event(subscription, now=now, grace=grace)
        if event is None:
            return done
        subscription = await _bring(connection, subscription, event, actor=actor)
    return EVENTS_PER_TURN


_NOT_LEFT_OUT = "id <> ALL(CAST(:but AS uuid[]))"
# By index each; a subscription that a provider renews is left to it, unless it was to end.
_DUE = text(f"""
    (SELECT id, user_id FROM subscriptions
      WHERE status IN ('trialing', 'active', 'past_due', 'paused') AND current_period_end <= :now
        AND {_NOT_LEFT_OUT} AND (cancel_at_period_end OR (provider = '{MANUAL}' AND status IN ('trialing', 'active')))
      ORDER BY current_period_end LIMIT :limit)
    UNION
    (SELECT id, user_id FROM subscriptions
      WHERE status = 'past_due' AND coalesce(past_due_since, current_period_end) <= :graced
        AND {_NOT_LEFT_OUT} LIMIT :limit)
    UNION
    (SELECT id, user_id FROM subscriptions
      WHERE status = 'incomplete' AND created_at <= :abandoned AND {_NOT_LEFT_OUT} LIMIT :limit)
""")  # noqa: S608 - made of constants of ours


def _event(subscription: StoredSubscription, *, now: datetime, grace: timedelta) -> Event | None:
    times = Schedule(
        created_at=subscription.created_at,
        period_end=subscription.current_period_end,
        past_due_since=subscription.past_due_since,
        is_manual=subscription.provider == MANUAL,
    )
    return due_event(subscription.state, times, now=now, grace=grace)


async def _bring(
    connection: AsyncConnection, subscription: StoredSubscription, event: Event, *, actor: str
) -> StoredSubscription:
    changes = transition(subscription, event)
    if changes["status"] is not SubscriptionStatus.ACTIVE:
        ended = {"canceled_at": subscription.canceled_at, "past_due_since": None}
        return await update(connection, subscription.id, **changes, **ended)
    # What ends with the period goes before the next one's credits come, also when both are late.
    await expiry.settle(connection, subscription.user_id, now=subscription.current_period_end, actor=actor)
    plan = await plan_of(connection, subscription)
    if subscription.next_plan_id is not None:
        plan = await get_plan(connection, subscription.next_plan_id) or plan
    end = subscription.current_period_end
    anchor = end if event is Event.TRIAL_ENDED else subscription.period_anchor
    zone = await time_zone_of(connection, subscription.user_id)
    span = next_period(anchor, period_length(plan), zone=zone, end=end)
    return await renew(connection, subscription, span=span, actor=actor, **changes)
