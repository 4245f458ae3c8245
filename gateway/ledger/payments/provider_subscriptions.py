"""Syncs subscriptions with their payment provider: the state that was fetched last replaces the stored one.

A superseded subscription is the exception: another subscription of the account took its place, so it has ended here
whatever the provider says, and must be cancelled there. Its metadata name the other one (`superseded_by`), and say
`is_billed` as long as the provider keeps charging for it. One that an operator paused stays paused, until it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import case, literal, select, text
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.catalogue.provider_prices import PlanPrice
from gateway.ledger.credits import expiry
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.tables import subscriptions
from gateway.ledger.db.tables.subscriptions import CURRENT, CURRENT_STATUSES
from gateway.ledger.subscriptions import advances, billing_spans, free_credits, overage
from gateway.ledger.subscriptions.allowances import (
    credits_had,
    credits_of,
    extend_period,
    open_period,
    plan_of,
    prorate,
)
from gateway.ledger.subscriptions.lifecycle import period_length
from gateway.ledger.subscriptions.subscriptions import (
    MANUAL,
    StoredSubscription,
    announce,
    get_existing,
    get_for_update,
    state_columns,
    update,
)
from policies.billing.news import PAID_TWICE
from policies.billing.payments import Settlement
from policies.billing.recurring import monthly
from policies.billing.subscriptions import state_from_provider
from policies.credits.allowances import remaining_share
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
    price: PlanPrice | None = None,
    provider_subscription_id: str | None = None,
    settlement: Settlement | None = Settlement.PAID,
    next_change: tuple[str, int] | None = None,
) -> StoredSubscription:
    """Sets the subscription to the provider's state; a repetition changes nothing.

    `now` is when the object was fetched: a fetch older than the stored state is ignored. A period's credits are granted
    once it is paid for (active or trialing); a change of plan or quantity within a period is prorated. A subscription
    that becomes current supersedes the account's others. `price` is the one that the provider charges. `settlement`
    None: the payment of a period that has begun already is under way. `next_change` is the plan and the seats that the
    provider has scheduled for the next period. Raises NotFound for an unknown subscription or plan.
    """
    before = await get_for_update(connection, subscription_id)
    if before.provider_synced_at is not None and now < before.provider_synced_at:
        return before
    if await _is_superseded(connection, subscription_id):
        await _settle_advance(connection, before, settlement, now=now, actor=actor)
        return await _sync_superseded(connection, before, status=status, is_ending=cancel_at_period_end, now=now)
    status = _status_here(before, status)
    if status in CURRENT_STATUSES:
        await _supersede_others(connection, before, now=now)
    changes = state_columns(state_from_provider(status, is_ending=cancel_at_period_end))
    period = {"current_period_start": period_start, "current_period_end": period_end, "period_anchor": period_start}
    old_plan = await plan_of(connection, before)
    if period_start != before.current_period_start or (price is not None and price.plan_id != before.plan_id):
        await overage.bill(connection, before, plan=old_plan, at=_within_period(before, now), actor=actor)
    synced = await update(
        connection,
        subscription_id,
        **changes,
        **period,
        **await _plan_columns(connection, before, price),
        **await _trial_columns(connection, before, status=status, period=(period_start, period_end)),
        quantity=quantity,
        next_plan_id=next_change and next_change[0],
        next_quantity=next_change and next_change[1],
        provider_subscription_id=provider_subscription_id or before.provider_subscription_id,
        provider_synced_at=now,
        past_due_since=_past_due_since(before, status=status, settlement=settlement, now=now),
        canceled_at=_canceled_at(before, status=status, is_ending=changes["cancel_at_period_end"], now=now),
    )
    await _settle_advance(connection, synced, settlement, now=now, actor=actor)
    await _take_rest(connection, before, synced, old_plan=old_plan, actor=actor)
    if status in _PAID or settlement is Settlement.ADVANCED:
        await _grant(connection, before, synced, old_plan=old_plan, now=now, actor=actor)
    if settlement is Settlement.ADVANCED:
        await advances.mark(connection, synced)
    return synced


def _within_period(before: StoredSubscription, at: datetime) -> datetime:
    """The moment, or the end of the period that is nearer to it."""
    return max(before.current_period_start, min(at, before.current_period_end))


def _status_here(before: StoredSubscription, status: SubscriptionStatus) -> SubscriptionStatus:
    """The provider's status, but that what is over stays over, and what was paused here stays paused."""
    if status in (SubscriptionStatus.PAST_DUE, SubscriptionStatus.PAUSED) and _is_over(before):
        status = before.status
    return SubscriptionStatus.PAUSED if before.paused_here and status in CURRENT_STATUSES else status


async def _settle_advance(
    connection: AsyncConnection,
    synced: StoredSubscription,
    settlement: Settlement | None,
    *,
    now: datetime,
    actor: str,
) -> None:
    """Makes an advance the period's credits once it is paid for, or takes it back once it will not be."""
    if settlement is Settlement.PAID:
        await advances.settle(connection, synced, plan=await plan_of(connection, synced), actor=actor)
    elif settlement in (Settlement.UNPAID, Settlement.DROPPED):
        await advances.take_back(connection, synced, actor=actor)
        await expiry.wait_no_longer(connection, synced.id, now=now)


def _is_over(before: StoredSubscription) -> bool:
    """Whether its grace has ended: further failures of the same payment begin no other."""
    return before.status is SubscriptionStatus.EXPIRED and before.past_due_since is not None


def _past_due_since(
    before: StoredSubscription, *, status: SubscriptionStatus, settlement: Settlement | None, now: datetime
) -> datetime | None:
    """Kept after the end, so that a refusal can name the payment that failed."""
    if status in _PAID or status is SubscriptionStatus.INCOMPLETE:
        return None
    has_failed = status is SubscriptionStatus.PAST_DUE or settlement is Settlement.UNPAID
    return before.past_due_since or (now if has_failed else None)


async def _take_rest(
    connection: AsyncConnection,
    before: StoredSubscription,
    synced: StoredSubscription,
    *,
    old_plan: StoredPlan,
    actor: str,
) -> None:
    """Takes the credits of the rest of a paid period that one of another length replaces: its price went back.

    Nothing where the subscription has ended.
    """
    plan, begins = await plan_of(connection, synced), synced.current_period_start
    is_within = before.current_period_start < begins < before.current_period_end
    if before.status is not SubscriptionStatus.ACTIVE or synced.status in _ENDED or not is_within:
        return
    if period_length(plan) == period_length(old_plan):
        return
    share = remaining_share(before.current_period_start, before.current_period_end, now=begins)
    without = replace(old_plan, terms=replace(old_plan.terms, credits_per_period=0))
    had = await credits_had(connection, before, plan=old_plan)
    has_price = _monthly(old_plan, before) > 0
    await prorate(
        connection, before, plan=without, before=had, had=had, share=share, actor=actor, returns_price=has_price
    )


async def _grant(
    connection: AsyncConnection,
    before: StoredSubscription,
    synced: StoredSubscription,
    *,
    old_plan: StoredPlan,
    now: datetime,
    actor: str,
) -> None:
    if synced.status is SubscriptionStatus.TRIALING and synced.trial_start is None:
        return  # a second trial, which the provider allows: access without credits
    plan = await plan_of(connection, synced)
    if await open_period(connection, synced, plan=plan, actor=actor):
        return
    await extend_period(connection, synced)
    is_other = synced.plan_id != before.plan_id
    if is_other or credits_of(plan, synced.quantity) != credits_of(old_plan, before.quantity):
        had = await credits_had(connection, before, plan=old_plan)
        credits_before = had if is_other else credits_of(old_plan, before.quantity)
        share = remaining_share(synced.current_period_start, synced.current_period_end, now=now)
        is_cheaper = _monthly(plan, synced) < _monthly(old_plan, before)
        await prorate(
            connection,
            synced,
            plan=plan,
            before=credits_before,
            had=had,
            share=share,
            actor=actor,
            returns_price=is_cheaper,
        )


def _monthly(plan: StoredPlan, subscription: StoredSubscription) -> Decimal:
    return monthly(plan.terms.pricing, subscription.quantity, period=period_length(plan))


async def _supersede_others(connection: AsyncConnection, successor: StoredSubscription, *, now: datetime) -> None:
    for other_id in await connection.scalars(
        _CURRENT_MANUAL, {"user_id": successor.user_id, "successor": successor.id}
    ):
        other = await get_existing(connection, other_id)
        plan = await plan_of(connection, other)
        await billing_spans.end_span(connection, other, plan=plan, at=now, ends_period=True)
    superseded = _metadata_with(superseded_by=str(successor.id), is_billed=True)
    is_at_provider = subscriptions.c.provider_subscription_id.is_not(None)
    # Whose grace is over, but whom the provider may still charge.
    is_unpaid = (
        (subscriptions.c.status == SubscriptionStatus.EXPIRED)
        & subscriptions.c.past_due_since.is_not(None)
        & ~subscriptions.c.metadata.has_key("superseded_by")
        & is_at_provider
    )
    others = (
        update_rows(subscriptions)
        .where(
            subscriptions.c.user_id == successor.user_id,
            subscriptions.c.id != successor.id,
            subscriptions.c.status.in_(CURRENT_STATUSES) | is_unpaid,
        )
        .values(
            status=SubscriptionStatus.CANCELED,
            cancel_at_period_end=False,
            canceled_at=now,
            metadata=case((is_at_provider, superseded), else_=subscriptions.c.metadata),
        )
    )
    paid = await connection.scalars(_PAID_OTHERS, {"user_id": successor.user_id, "successor": successor.id})
    await _announce_paid_twice(connection, successor, list(paid))
    await connection.execute(others)


async def _announce_paid_twice(
    connection: AsyncConnection, successor: StoredSubscription, paid: Sequence[UUID]
) -> None:
    """The buyer may want one of the payments back, and only the operator can give it."""
    for other_id in paid:
        other = await get_existing(connection, other_id)
        kept = {"kept_subscription_id": str(successor.id), "kept_plan_id": successor.plan_id}
        await announce(connection, other, PAID_TWICE, once=f"paid_twice:{other_id}", **kept)


_PAID_OTHERS = text("""
    SELECT id FROM subscriptions
     WHERE user_id = :user_id AND id <> :successor AND provider_subscription_id IS NOT NULL
       AND status IN ('active', 'trialing') AND NOT cancel_at_period_end
""")

_CURRENT_MANUAL = text(f"""
    SELECT id FROM subscriptions
     WHERE user_id = :user_id AND id <> :successor AND provider = '{MANUAL}' AND {CURRENT}
""")  # noqa: S608 - composed of constants


async def _is_superseded(connection: AsyncConnection, subscription_id: UUID) -> bool:
    mark = select(subscriptions.c.metadata.has_key("superseded_by")).where(subscriptions.c.id == subscription_id)
    return bool(await connection.scalar(mark))


async def _sync_superseded(
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
        metadata=_metadata_with(is_billed=not has_ended and not is_ending),
    )


def _metadata_with(**facts: Any) -> Any:
    return subscriptions.c.metadata.concat(literal(facts, JSONB))


async def _plan_columns(
    connection: AsyncConnection, before: StoredSubscription, price: PlanPrice | None
) -> dict[str, Any]:
    """The plan of the price, in the version it has now or, of a former price, in the last one that had it.

    Nothing where the subscription follows this plan, or keeps a version of it that had this price. One that is paid for
    now follows none yet: its buyer may have begun another checkout at another price since.
    """
    if price is None:
        return {}
    is_followed = not before.keeps_version and before.provider_subscription_id is not None
    if price.plan_id == before.plan_id and (is_followed or price.covers(before.plan_version)):
        return {}
    plan = await plans.get(connection, price.plan_id)
    if plan is None:
        raise NotFound("plan", price.plan_id)
    is_former = price.last_version is not None
    return {"plan_id": plan.id, "plan_version": price.last_version or plan.version, "keeps_version": is_former}


async def _trial_columns(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    status: SubscriptionStatus,
    period: tuple[datetime, datetime],
) -> dict[str, Any]:
    """Records the person's first trial only: of two accounts with a checkout of one each, the first to begin has it."""
    if status is not SubscriptionStatus.TRIALING:
        return {}
    if await free_credits.had_trial(connection, before.user_id, but_for=before.id):
        return {}
    return {"trial_start": period[0], "trial_end": period[1]}


def _canceled_at(
    before: StoredSubscription, *, status: SubscriptionStatus, is_ending: bool, now: datetime
) -> datetime | None:
    has_ended = status in _ENDED
    return (before.canceled_at or now) if has_ended or is_ending else None
