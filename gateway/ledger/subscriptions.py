"""Who is on which plan: begun with a period by the calendar and the plan's credits for it, and ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits import grant
from gateway.ledger.errors import NotFound, checked
from gateway.ledger.plans import StoredPlan
from gateway.ledger.plans import get as get_plan
from gateway.ledger.rows import columns, value
from gateway.ledger.tables import subscriptions, user_credits
from gateway.ledger.tables.contracts import CURRENT_STATUSES
from gateway.ledger.versions import bump_account
from policies.model import SubscriptionStatus


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    id: UUID
    user_id: UUID
    plan_id: str
    plan_version: int
    status: SubscriptionStatus
    quantity: int
    provider: str
    provider_subscription_id: str | None
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool
    canceled_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = columns(subscriptions, StoredSubscription)


async def start(
    connection: AsyncConnection, user_id: UUID, *, plan_id: str, now: datetime, actor: str = "system"
) -> StoredSubscription:
    """An active subscription from `now` on, its credits granted.

    Raises NotFound for an unknown user or plan, AlreadyExists while another subscription is current.
    """
    plan = await get_plan(connection, plan_id)
    if plan is None:
        raise NotFound("plan", plan_id)
    if await bump_account(connection, user_id) is None:
        raise NotFound("user", user_id)
    period_end = await _period_end(connection, plan, now)
    given = {
        "user_id": user_id,
        "plan_id": plan.id,
        "plan_version": plan.version,
        "status": SubscriptionStatus.ACTIVE,
        "current_period_start": now,
        "current_period_end": period_end,
    }
    async with checked(connection, "subscription"):
        made = insert(subscriptions).values(given).returning(*_COLUMNS)
        subscription = value(StoredSubscription, (await connection.execute(made)).one())
    await _fill_period(connection, subscription, plan=plan, actor=actor)
    return subscription


async def get(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription | None:
    row = (await connection.execute(select(*_COLUMNS).where(subscriptions.c.id == subscription_id))).one_or_none()
    return None if row is None else value(StoredSubscription, row)


async def current(connection: AsyncConnection, user_id: UUID) -> StoredSubscription | None:
    """The one subscription the account lives on; None where it has none."""
    query = select(*_COLUMNS).where(subscriptions.c.user_id == user_id, subscriptions.c.status.in_(CURRENT_STATUSES))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(StoredSubscription, row)


async def cancel(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, at_period_end: bool = True
) -> StoredSubscription:
    """Ends it with its period, or now. Credits already granted stay. Raises NotFound for one that is not current."""
    found = await get(connection, subscription_id)
    if found is None:
        raise NotFound("subscription", subscription_id)
    await bump_account(connection, found.user_id)
    ending = {"cancel_at_period_end": True} if at_period_end else {"status": SubscriptionStatus.CANCELED}
    ended = (
        update(subscriptions)
        .where(subscriptions.c.id == subscription_id, subscriptions.c.status.in_(CURRENT_STATUSES))
        .values(canceled_at=now, **ending)
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(ended)).one_or_none()
    if row is None:
        raise NotFound("current subscription", subscription_id)
    return value(StoredSubscription, row)


# PostgreSQL's calendar: a month from 31 January ends on the last of February.
_PERIOD_END = text("""
    SELECT (CAST(:now AS timestamptz) AT TIME ZONE 'UTC' + CAST(:period AS text)::interval) AT TIME ZONE 'UTC'
""")


async def _period_end(connection: AsyncConnection, plan: StoredPlan, now: datetime) -> datetime:
    period = f"{plan.terms.billing_interval_count} {plan.terms.billing_interval}"
    end: datetime = (await connection.execute(_PERIOD_END, {"now": now, "period": period})).scalar_one()
    return end


async def _fill_period(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, actor: str
) -> None:
    begins, ends = subscription.current_period_start, subscription.current_period_end
    period = {
        "subscription_id": subscription.id,
        "period_start": begins,
        "period_end": ends,
        "last_credit_refill": begins,
        "next_credit_refill": ends,
        "credits_used_this_period": 0,
        "updated_at": func.now(),
    }
    await connection.execute(update(user_credits).where(user_credits.c.user_id == subscription.user_id).values(period))
    if plan.terms.credits_per_period > 0:
        await grant(
            connection,
            subscription.user_id,
            amount=plan.terms.credits_per_period,
            source="plan",
            reason=f"{plan.terms.name}: credits of the period",
            actor=actor,
            effective_at=begins,
            expires_at=None if plan.terms.credits_rollover else ends,
        )
