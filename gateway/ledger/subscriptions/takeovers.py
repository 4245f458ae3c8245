"""Takes subscriptions and balances over from another system, in the middle of their periods.

All movements of a takeover have one actor, and the sum of that actor's movements is what the account was brought: so a
repeated takeover books the difference to what the other system says now, which is nothing where nothing has changed,
and whatever was spent or granted here meanwhile stays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits import grants, reconciliation
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.allowances import open_period
from gateway.ledger.subscriptions.lifecycle import get_plan, period_length, plan_columns, time_zone_of
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription
from policies.billing.periods import nth_period
from policies.model import SubscriptionStatus

REASON = "taken over"
_PAID = (SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING)


class PeriodHasEnded(Exception):  # noqa: N818 - named for the condition
    """The subscription would renew here for each period since, although nobody knows whether it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSubscription:
    """A subscription in another system. `period_end` None: one billing interval of the plan after the start."""

    id: UUID
    plan_id: str
    status: SubscriptionStatus
    period_start: datetime
    period_end: datetime | None = None
    quantity: int = 1
    provider: str = MANUAL
    provider_subscription_id: str | None = None
    cancel_at_period_end: bool = False
    canceled_at: datetime | None = None
    trial_start: datetime | None = None
    trial_end: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What movements of one actor have brought an account so far, and how much of that was bought."""

    credits: int = 0
    purchased: int = 0


async def take_over(
    connection: AsyncConnection, user_id: UUID, *, foreign: ForeignSubscription, now: datetime, actor: str
) -> StoredSubscription:
    """Creates the subscription in its state; a running period begins with the plan's credits.

    Raises NotFound for an unknown user or plan, AlreadyExists while another subscription is current, InvalidValue, and
    PeriodHasEnded for one that this gateway renews and whose period has ended.
    """
    plan = await get_plan(connection, foreign.plan_id)
    if await bump_account(connection, user_id) is None:
        raise NotFound("user", user_id)
    zone = await time_zone_of(connection, user_id)
    first = nth_period(foreign.period_start, period_length(plan), zone=zone, number=0)
    end = foreign.period_end or first.end
    is_paid = foreign.status in _PAID
    if is_paid and end <= now and foreign.provider == MANUAL:
        raise PeriodHasEnded(f"is {foreign.status}, but its period ended at {end.isoformat()}")
    dated = {} if foreign.created_at is None else {"created_at": foreign.created_at}
    created = await subscriptions.create(
        connection, **plan_columns(plan), **_columns(foreign, user_id, end=end), **dated
    )
    if is_paid and created.current_period_start <= now < end:
        await open_period(connection, created, plan=plan, actor=actor)
    return created


async def lock_taken_over(
    connection: AsyncConnection, user_ids: Collection[UUID], *, actor: str
) -> dict[UUID, TakenOver]:
    """What the actor's movements have brought each account that has any. Locks the balances of all."""
    await reconciliation.lock(connection, user_ids)
    rows = await connection.execute(_TAKEN_OVER, {"user_ids": list(user_ids), "actor": actor})
    return {row.user_id: TakenOver(int(row.credits), int(row.purchased)) for row in rows}


async def bring_balance(
    connection: AsyncConnection, user_id: UUID, *, before: TakenOver, wanted: TakenOver, actor: str
) -> bool:
    """Books what is missing between the two; False where nothing is. Raises NotFound.

    Purchased credits never expire. Missing others are granted without an end, surplus ones are taken from the grants
    that end first, and what no grant covers is a debt.
    """
    bought = max(0, wanted.purchased - before.purchased)
    if bought:
        await grants.grant(connection, user_id, amount=bought, source="purchase", reason=REASON, actor=actor)
    rest = wanted.credits - before.credits - bought
    if rest:
        await grants.adjust(connection, user_id, amount=rest, reason=REASON, actor=actor)
    return bool(bought or rest)


def _columns(foreign: ForeignSubscription, user_id: UUID, *, end: datetime) -> dict[str, Any]:
    is_past_due = foreign.status is SubscriptionStatus.PAST_DUE
    return {
        "id": foreign.id,
        "user_id": user_id,
        "status": foreign.status,
        "quantity": foreign.quantity,
        "provider": foreign.provider,
        "provider_subscription_id": foreign.provider_subscription_id,
        "current_period_start": foreign.period_start,
        "current_period_end": end,
        "period_anchor": foreign.period_start,
        "cancel_at_period_end": foreign.cancel_at_period_end,
        "canceled_at": foreign.canceled_at,
        "trial_start": foreign.trial_start,
        "trial_end": foreign.trial_end,
        "past_due_since": foreign.period_start if is_past_due else None,
    }


_TAKEN_OVER = text("""
    SELECT l.user_id, sum(l.amount) AS credits,
           coalesce(sum(l.amount) FILTER (WHERE l.kind = 'grant' AND g.source = 'purchase'), 0) AS purchased
      FROM credit_ledger l LEFT JOIN credit_grants g ON g.id = l.grant_id
     WHERE l.user_id = ANY (CAST(:user_ids AS uuid[])) AND l.actor = :actor
     GROUP BY l.user_id
""")
