"""Changes the plan or the seats of a subscription, with the credits and the invoice lines that the change makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.invoicing import issued_invoices
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.allowances import credits_of, plan_of, prorate
from gateway.ledger.subscriptions.lifecycle import get_plan, period_length, plan_columns, renew
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_for_update, transition
from policies.billing.subscriptions import Event
from policies.credits.allowances import share_left
from policies.model import SubscriptionStatus


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    """`credits` were granted, or taken where negative; 0 for a change at the period's end."""

    subscription: StoredSubscription
    before: StoredSubscription
    credits: int


async def change(
    connection: AsyncConnection,
    subscription_id: UUID,
    *,
    now: datetime,
    actor: str,
    plan_id: str | None = None,
    quantity: int | None = None,
    at_period_end: bool = False,
) -> SubscriptionChange:
    """Another plan, another number of seats, or both; None keeps what there is. Raises NotFound for no such plan.

    Now: credits are given or taken in proportion to what is left of the period; a plan of another interval begins a
    period of its own, and what is left of the credits before goes. At the period's end: the next one begins with it.
    """
    before = await get_for_update(connection, subscription_id)
    plan = await get_plan(connection, plan_id or before.plan_id)
    seats = before.quantity if quantity is None else quantity
    transition(before, Event.CHANGE_PLAN if plan_id else Event.CHANGE_QUANTITY)
    if at_period_end:
        later = {"next_plan_id": plan.id, "next_quantity": seats}
        is_as_now = (plan.id, seats) == (before.plan_id, before.quantity)
        changed = await subscriptions.update(
            connection, subscription_id, **(dict.fromkeys(later) if is_as_now else later)
        )
        return SubscriptionChange(changed, before, 0)
    return await _change_now(connection, before, plan=plan, quantity=seats, now=now, actor=actor)


async def _change_now(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    plan: StoredPlan,
    quantity: int,
    now: datetime,
    actor: str,
) -> SubscriptionChange:
    old = await plan_of(connection, before)
    left = share_left(before.current_period_start, before.current_period_end, now=now)
    terms: dict[str, object] = {"quantity": quantity, "next_plan_id": None, "next_quantity": None}
    if plan.id != before.plan_id:
        terms |= plan_columns(plan)
    changed = await subscriptions.update(connection, before.id, **terms)
    had = credits_of(old, before.quantity)
    is_same_period = period_length(old) == period_length(plan) or before.status is SubscriptionStatus.TRIALING
    if is_same_period:
        in_force = await plan_of(connection, changed)
        await issued_invoices.note_change(connection, before, old=old, new=in_force, quantity=quantity, at=now)
        credits = await prorate(connection, changed, plan=in_force, before=had, left=left, actor=actor)
        return SubscriptionChange(changed, before, credits)
    await issued_invoices.note_change(connection, before, old=old, new=None, quantity=quantity, at=now)
    given_back = await prorate(connection, changed, plan=_without_credits(plan), before=had, left=left, actor=actor)
    begun = await renew(connection, changed, anchor=now, actor=actor)
    return SubscriptionChange(begun, before, given_back + credits_of(plan, quantity))


def _without_credits(plan: StoredPlan) -> StoredPlan:
    return replace(plan, terms=replace(plan.terms, credits_per_period=0))
