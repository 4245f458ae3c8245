"""A subscription as its payment provider has it: whatever we thought of it, what was fetched last is the truth.

But for one that another of a provider's took over from: that one is over, whatever its provider says, and the provider
is to end it too. Its metadata say by which it is `superseded_by`, and while the provider goes on charging, `is_billed`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, literal, select, text
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.tables import subscriptions
from gateway.ledger.db.tables.subscriptions import CURRENT, CURRENT_STATUSES
from gateway.ledger.subscriptions.allowances import begin_period, credits_of, extend_period, plan_of, prorate
from gateway.ledger.subscriptions.subscriptions import (
    StoredSubscription,
    get_existing,
    get_for_update,
    state_columns,
    update,
)
from policies.billing.subscriptions import state_from_provider
from policies.credits.allowances import share_left
from policies.model import SubscriptionStatus

_PAID = (SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING)
_ENDED = (SubscriptionStatus.CANCELED, SubscriptionStatus.EXPIRED)


async def sync_from_provider(
    connection: AsyncConnection,
    subscription_id: UUID,
    *,
    status: SubscriptionStatus,
    period_start: datetime,
    period_end: datetime,
    cancel_at_period_end: bool,
    quantity: int,
    now: datetime,
    actor: str,
    plan_id: str | None = None,
    provider_subscription_id: str | None = None,
) -> StoredSubscription:
    """Makes the subscription what the provider's object says; saying it again changes nothing.

    `now` is when the object was fetched: one that is older than what is known already is ignored. A period's credits
    are granted once it is paid for (active or trialing); a plan or quantity that differs within a period is prorated.
    Becoming current it ends the one that the account lived on; that one does not come back, only how it ended is taken.
    Raises NotFound for no such subscription or plan.
    """
    before = await get_for_update(connection, subscription_id)
    if before.provider_synced_at is not None and now < before.provider_synced_at:
        return before
    if await _is_superseded(connection, subscription_id):
        return await _follow(connection, before, status=status, is_ending=cancel_at_period_end, now=now)
    if status in CURRENT_STATUSES:
        await _end_others(connection, before, now=now)
    changes = state_columns(state_from_provider(status, is_ending=cancel_at_period_end))
    period = {"current_period_start": period_start, "current_period_end": period_end, "period_anchor": period_start}
    old_plan = await plan_of(connection, before)
    synced = await update(
        connection,
        subscription_id,
        **changes,
        **period,
        **await _plan_columns(connection, before, plan_id),
        **await _trial_columns(connection, before, status=status, period=(period_start, period_end)),
        quantity=quantity,
        next_plan_id=None,
        next_quantity=None,
        provider_subscription_id=provider_subscription_id or before.provider_subscription_id,
        provider_synced_at=now,
        past_due_since=(before.past_due_since or now) if status is SubscriptionStatus.PAST_DUE else None,
        canceled_at=_canceled_at(before, status=status, is_ending=changes["cancel_at_period_end"], now=now),
    )
    if status in _PAID:
        await _grant(connection, synced, had=credits_of(old_plan, before.quantity), now=now, actor=actor)
    return synced


async def to_end_at_provider(connection: AsyncConnection, *, provider: str, limit: int) -> list[StoredSubscription]:
    """What the provider goes on charging for although the account was deleted or lives on another subscription.

    In no order that favours any.
    """
    found = await connection.scalars(_TO_END, {"provider": provider, "limit": limit})
    return [await get_existing(connection, subscription_id) for subscription_id in found]


# The subscription itself is what is owed: one that is begun or paid for after the user was deleted is found too.
_TO_END = text(f"""
    SELECT s.id FROM subscriptions s JOIN users u ON u.id = s.user_id
     WHERE s.provider = :provider AND s.provider_subscription_id IS NOT NULL
       AND (u.deleted_at IS NOT NULL AND s.{CURRENT} AND NOT s.cancel_at_period_end
            OR s.metadata @> '{{"is_billed": true}}')
     ORDER BY random() LIMIT :limit
""")  # noqa: S608 - made of constants of ours


async def _grant(
    connection: AsyncConnection, synced: StoredSubscription, *, had: int, now: datetime, actor: str
) -> None:
    if synced.status is SubscriptionStatus.TRIALING and synced.trial_start is None:
        return  # a second trial, by the provider's leave: access, but no second credits
    plan = await plan_of(connection, synced)
    if await begin_period(connection, synced, plan=plan, actor=actor):
        return
    await extend_period(connection, synced)
    if credits_of(plan, synced.quantity) != had:
        left = share_left(synced.current_period_start, synced.current_period_end, now=now)
        await prorate(connection, synced, plan=plan, before=had, left=left, actor=actor)


async def _end_others(connection: AsyncConnection, taking_over: StoredSubscription, *, now: datetime) -> None:
    mark = _noting(superseded_by=str(taking_over.id), is_billed=True)
    is_a_providers = subscriptions.c.provider_subscription_id.is_not(None)
    others = (
        update_rows(subscriptions)
        .where(
            subscriptions.c.user_id == taking_over.user_id,
            subscriptions.c.id != taking_over.id,
            subscriptions.c.status.in_(CURRENT_STATUSES),
        )
        .values(
            status=SubscriptionStatus.CANCELED,
            cancel_at_period_end=False,
            canceled_at=now,
            metadata=case((is_a_providers, mark), else_=subscriptions.c.metadata),
        )
    )
    await connection.execute(others)


async def _is_superseded(connection: AsyncConnection, subscription_id: UUID) -> bool:
    mark = select(subscriptions.c.metadata.has_key("superseded_by")).where(subscriptions.c.id == subscription_id)
    return bool(await connection.scalar(mark))


async def _follow(
    connection: AsyncConnection,
    superseded: StoredSubscription,
    *,
    status: SubscriptionStatus,
    is_ending: bool,
    now: datetime,
) -> StoredSubscription:
    has_ended = status in _ENDED
    return await update(
        connection,
        superseded.id,
        status=status if has_ended else superseded.status,
        provider_synced_at=now,
        metadata=_noting(is_billed=not has_ended and not is_ending),
    )


def _noting(**facts: Any) -> Any:
    return subscriptions.c.metadata.concat(literal(facts, JSONB))


async def _plan_columns(connection: AsyncConnection, before: StoredSubscription, plan_id: str | None) -> dict[str, Any]:
    if plan_id is None or plan_id == before.plan_id:
        return {}
    plan = await plans.get(connection, plan_id)
    if plan is None:
        raise NotFound("plan", plan_id)
    return {"plan_id": plan.id, "plan_version": plan.version, "keeps_version": False}


async def _trial_columns(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    status: SubscriptionStatus,
    period: tuple[datetime, datetime],
) -> dict[str, Any]:
    """An account's trial is noted once; where it had one before, the provider's second is not."""
    if status is not SubscriptionStatus.TRIALING:
        return {}
    had = select(subscriptions.c.id).where(
        subscriptions.c.user_id == before.user_id,
        subscriptions.c.id != before.id,
        subscriptions.c.trial_start.is_not(None),
    )
    if (await connection.execute(had.limit(1))).first() is not None:
        return {}
    return {"trial_start": period[0], "trial_end": period[1]}


def _canceled_at(
    before: StoredSubscription, *, status: SubscriptionStatus, is_ending: bool, now: datetime
) -> datetime | None:
    has_ended = status in _ENDED
    return (before.canceled_at or now) if has_ended or is_ending else None
