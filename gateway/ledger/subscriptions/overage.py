"""Bills usage below zero of postpaid plans: forgiven as credits, asked for as money, both in one transaction.

Whatever ends a period, or changes its terms, bills before. Billing again bills what was used since: usage that reaches
PostgreSQL late is billed with the next period, or by a worker where no other follows (`list_ended`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits import grants
from gateway.ledger.db.tables import overages, usage_reports, user_credits
from gateway.ledger.db.tables.columns import new_id
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription
from policies.billing.invoicing import Line
from policies.billing.overage import billable, overage_line
from policies.model import SubscriptionStatus

# In identifiers of usage reports, which are then no reports of a day.
REPORTED = ":overage:"


async def bill(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, at: datetime, actor: str
) -> int:
    """Bills what calls took the balance below zero since it was billed last; gives how many credits.

    `plan` is that of the period which ends `at`. Trials bill nothing. Raises NotFound.
    """
    row = (await connection.execute(_LOCK.where(user_credits.c.user_id == subscription.user_id))).one()
    used = row.total_credits_used - row.overage_counted
    if used:
        counted = {"overage_counted": row.total_credits_used, "updated_at": func.now()}
        await connection.execute(
            update(user_credits).where(user_credits.c.user_id == subscription.user_id).values(counted)
        )
    credits = billable(row.current_credits, used) if _is_postpaid(subscription, plan) else 0
    if credits:
        entry = await grants.grant(
            connection,
            subscription.user_id,
            amount=credits,
            source="overage",
            reason=f"{plan.terms.name}: usage beyond its credits, which is billed",
            actor=actor,
            subscription_id=subscription.id,
        )
        await _ask_for(connection, subscription, plan, credits=credits, grant_id=entry.grant_id, at=at)
    return credits


async def count_again(
    connection: AsyncConnection, subscription: StoredSubscription, *, plan: StoredPlan, credits: int
) -> None:
    """Used credits that were taken back with a part of the period's price are usage below zero, so they are billed.

    Only by a plan with a price for them; elsewhere the next grants pay.
    """
    if credits <= 0 or plan.terms.overage_price is None or not _is_postpaid(subscription, plan):
        return
    its = user_credits.c.user_id == subscription.user_id
    counted = func.greatest(0, user_credits.c.overage_counted - credits)
    await connection.execute(update(user_credits).where(its).values(overage_counted=counted))


async def take_lines(connection: AsyncConnection, subscription_id: UUID, *, currency: str, now: datetime) -> list[Line]:
    """The lines that the next own invoice in this currency includes, marked as invoiced by this transaction."""
    taken = (
        update(overages)
        .where(_is_open(subscription_id), overages.c.currency == currency)
        .values(invoiced_at=now)
        .returning(overages.c.credits, overages.c.price, overages.c.plan_name, overages.c.period_start)
    )
    rows = sorted((await connection.execute(taken)).all(), key=lambda row: row.period_start)
    return [overage_line(row.credits, price=row.price, currency=currency, name=row.plan_name) for row in rows]


async def has_open(connection: AsyncConnection, subscription_id: UUID) -> bool:
    """Whether an own invoice is to include something."""
    return (await connection.scalar(select(overages.c.id).where(_is_open(subscription_id)).limit(1))) is not None


async def list_open_currencies(connection: AsyncConnection, subscription_id: UUID) -> Sequence[str]:
    query = select(overages.c.currency).where(_is_open(subscription_id)).distinct()
    return (await connection.scalars(query.order_by(overages.c.currency))).all()


async def list_ended(connection: AsyncConnection, *, limit: int, exclude: Sequence[UUID] = ()) -> Sequence[UUID]:
    """Ended subscriptions of accounts that owe what calls used since it was billed last; without `exclude`."""
    return (await connection.scalars(_ENDED, {"limit": limit, "exclude": list(exclude)})).all()


_LOCK = select(
    user_credits.c.current_credits, user_credits.c.total_credits_used, user_credits.c.overage_counted
).with_for_update()
_ENDED = text("""
    SELECT s.id FROM user_credits c JOIN subscriptions s ON s.id = c.subscription_id
      JOIN subscription_plans p ON p.id = s.plan_id
     WHERE c.current_credits < 0 AND c.total_credits_used > c.overage_counted
       AND s.status IN ('canceled', 'expired') AND (p.overage_credits IS NOT NULL OR s.keeps_version)
       AND s.id <> ALL(CAST(:exclude AS uuid[]))
     ORDER BY s.canceled_at LIMIT :limit
""")


def _is_open(subscription_id: UUID) -> Any:
    return (overages.c.subscription_id == subscription_id) & overages.c.invoiced_at.is_(None)


def _is_postpaid(subscription: StoredSubscription, plan: StoredPlan) -> bool:
    """Whether somebody can ask for the money: the gateway itself, or a provider with a price for it."""
    if plan.terms.overage is None or subscription.status is SubscriptionStatus.TRIALING:
        return False
    is_priced = plan.terms.pricing_model == "usage" or plan.terms.overage_stripe_price_id is not None
    return subscription.provider == MANUAL or is_priced


async def _ask_for(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    plan: StoredPlan,
    *,
    credits: int,
    grant_id: UUID | None,
    at: datetime,
) -> None:
    """Nothing where the plan prices all usage: then it is asked for as usage."""
    if plan.terms.overage_price is None:
        return
    overage_id, is_own = new_id(), subscription.provider == MANUAL
    billed = {
        "id": overage_id,
        "user_id": subscription.user_id,
        "subscription_id": subscription.id,
        "grant_id": grant_id,
        "credits": credits,
        "price": plan.terms.overage_price,
        "currency": plan.terms.currency,
        "plan_name": plan.terms.name,
        "period_start": subscription.current_period_start,
        "period_end": subscription.current_period_end,
        "invoiced_at": None if is_own else at,
    }
    await connection.execute(insert(overages).values(billed))
    if not is_own:
        # Within the period, so that it is on the provider's invoice of it.
        used_at = max(
            subscription.current_period_start, min(at, subscription.current_period_end - timedelta(seconds=1))
        )
        report = {
            "subscription_id": subscription.id,
            "day": used_at.astimezone(UTC).date(),
            "used_at": used_at,
            "identifier": f"{subscription.id}{REPORTED}{overage_id}",
            "credits_used": credits,
        }
        await connection.execute(insert(usage_reports).values(report))
