"""Changes the plan or the seats of a subscription, with the credits and the invoice lines that the change makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.invoicing import issued_invoices
from gateway.ledger.subscriptions import billing_spans, overage, subscriptions
from gateway.ledger.subscriptions.allowances import credits_given, credits_had, plan_of, prorate
from gateway.ledger.subscriptions.lifecycle import get_plan, period_length, plan_columns, renew
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_for_update, transition
from policies.billing.subscriptions import SubscriptionEvent
from policies.credits.allowances import has_seats, remaining_share
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
    """Changes the plan, the seats, or both; None leaves it. Raises NotFound for an unknown plan.

    A change now prorates credits over the rest of the period; a plan of another interval starts a new period and takes
    the rest of the old credits. `at_period_end` applies the change with the next period. Of its own plan a subscription
    stays on the version that it is on. A change of seats alone leaves a scheduled change of plan.
    """
    before = await get_for_update(connection, subscription_id)
    is_own = plan_id in (None, before.plan_id)
    plan = await plan_of(connection, before) if is_own else await get_plan(connection, plan_id or "")
    seats = before.quantity if quantity is None else quantity
    transition(before, SubscriptionEvent.CHANGE_PLAN if plan_id else SubscriptionEvent.CHANGE_QUANTITY)
    scheduled = None if plan_id else await _find_scheduled_plan(connection, before)
    if at_period_end:
        later = _schedule(plan, seats) if scheduled is None else _reschedule(before, scheduled, quantity, is_asked=True)
        is_unchanged = (plan.id, seats) == (before.plan_id, before.quantity) and scheduled is None
        changed = await subscriptions.update(connection, subscription_id, **(_UNSCHEDULED if is_unchanged else later))
        return SubscriptionChange(changed, before, 0)
    later = _UNSCHEDULED if scheduled is None else _reschedule(before, scheduled, quantity, is_asked=False)
    return await _change_now(connection, before, plan=plan, quantity=seats, later=later, now=now, actor=actor)


_UNSCHEDULED: Mapping[str, object] = {"next_plan_id": None, "next_quantity": None}


def _schedule(plan: StoredPlan, quantity: int | None) -> Mapping[str, object]:
    return {"next_plan_id": plan.id, "next_quantity": quantity}


def _reschedule(
    before: StoredSubscription, plan: StoredPlan, quantity: int | None, *, is_asked: bool
) -> Mapping[str, object]:
    """The scheduled plan with the new seats. Seats that were scheduled with it stay, unless others are `is_asked`."""
    has_own = before.next_quantity != before.quantity and not is_asked
    if quantity is None or has_own:
        return _schedule(plan, before.next_quantity)
    return _schedule(plan, quantity if has_seats(plan.terms.pricing_model) else 1)


async def _find_scheduled_plan(connection: AsyncConnection, subscription: StoredSubscription) -> StoredPlan | None:
    """Another plan than its own."""
    if subscription.next_plan_id in (None, subscription.plan_id):
        return None
    return await get_plan(connection, subscription.next_plan_id or "")


async def _change_now(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    plan: StoredPlan,
    quantity: int,
    later: Mapping[str, object],
    now: datetime,
    actor: str,
) -> SubscriptionChange:
    old = await plan_of(connection, before)
    await overage.bill(connection, before, plan=old, at=now, actor=actor)
    had = await credits_had(connection, before, plan=old)
    share = remaining_share(before.current_period_start, before.current_period_end, now=now)
    is_same_period = period_length(old) == period_length(plan) or before.status is SubscriptionStatus.TRIALING
    await billing_spans.end_span(connection, before, plan=old, at=now, ends_period=not is_same_period)
    terms: dict[str, object] = {"quantity": quantity, **later}
    if plan.id != before.plan_id:
        terms |= plan_columns(plan)
    changed = await subscriptions.update(connection, before.id, **terms)
    if is_same_period:
        in_force = await plan_of(connection, changed)
        await issued_invoices.draft_change(connection, before, old=old, new=in_force, quantity=quantity, at=now)
        credits_before = had if plan.id != before.plan_id else credits_given(old, before)
        credits = await prorate(
            connection, changed, plan=in_force, before=credits_before, had=had, share=share, actor=actor
        )
        return SubscriptionChange(changed, before, credits)
    await issued_invoices.draft_change(connection, before, old=old, new=None, quantity=quantity, at=now)
    taken = await prorate(
        connection, changed, plan=_without_credits(plan), before=had, had=had, share=share, actor=actor
    )
    renewed = await renew(connection, changed, anchor=now, actor=actor)
    return SubscriptionChange(renewed, before, taken + credits_given(plan, renewed))


def _without_credits(plan: StoredPlan) -> StoredPlan:
    return replace(plan, terms=replace(plan.terms, credits_per_period=0))
