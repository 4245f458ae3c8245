"""Changes of the plan and the seats of a user's own subscription: at once, or with its period."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.billing.own_subscription import (
    OwnSubscription,
    offered_plan,
    read_own,
    shown,
    sync,
)
from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.billed_subscriptions import change_at_provider, is_billed, is_free, undo_change_at_provider
from gateway.api.checkout import CheckoutServiceDep, check_seats, pace_provider_calls
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, SIGNED_IN, UNKNOWN
from gateway.api.schemas.fields import Flag, Line, PositiveCount
from gateway.api.schemas.pages import RequestModel
from gateway.clock import now
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, transition
from policies.billing.subscriptions import SubscriptionEvent

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"], responses=SIGNED_IN)


class PlanChange(RequestModel):
    plan_id: Line = Field(examples=["pro"])
    quantity: PositiveCount | None = Field(
        default=None, description="null: as many seats as now, or 1 of a plan without seats."
    )
    at_period_end: Flag = Field(
        default=False, description="true: the next period begins with it; nothing is charged or given back now."
    )


class ChangedSubscription(OwnSubscription):
    confirmation_url: str | None = Field(
        default=None,
        description="Where you confirm the payment (3-D Secure); the plan changes once it is paid. null: it is.",
    )


@router.post("/{subscription_id}/change", summary="Change to another plan", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def change_plan(
    subscription_id: UUID, body: PlanChange, me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep
) -> ChangedSubscription:
    """Between paid plans at once, price and credits in proportion to what is left of the period, or with the next
    period; to a free plan with the next period. From a free plan to a paid one, subscribe to that."""
    found = await read_own(me, subscription_id)
    transition(found, SubscriptionEvent.CHANGE_PLAN)
    async with me.unit_of_work.read() as connection:
        plan = await _wanted(connection, me, found, name=body.plan_id)
    check_seats(plan, body.quantity)
    if is_billed(found):
        pace_provider_calls(me.user)
        confirmation_url = await change_at_provider(
            dependencies.database,
            checkout_service,
            found,
            plan=plan,
            quantity=body.quantity,
            at_period_end=body.at_period_end,
        )
        after = await sync(me, dependencies, checkout_service.provider(found.provider), found)
        return ChangedSubscription(**after.model_dump(), confirmation_url=confirmation_url)
    if not is_free(plan.terms):
        raise Conflict(f"{plan.id} is to be paid for: POST /subscriptions/{plan.id}; it takes over once it is.")
    if body.quantity is not None:
        raise Invalid("quantity", "is for plans that are paid for")
    return await _change_with_period(me, found, plan_id=plan.id, action="subscriptions.change")


@router.post("/{subscription_id}/undo-change", summary="Keep the plan", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def undo_change(
    subscription_id: UUID, me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep
) -> OwnSubscription:
    """The change that was to come with the next period does not."""
    found = await read_own(me, subscription_id)
    if found.next_plan_id is None and found.next_quantity is None:
        raise Conflict("No change is scheduled for this subscription.")
    if not is_billed(found):
        return await _change_with_period(me, found, plan_id=found.plan_id, action="subscriptions.undo_change")
    pace_provider_calls(me.user)
    await undo_change_at_provider(checkout_service, found)
    return await sync(me, dependencies, checkout_service.provider(found.provider), found)


async def _change_with_period(me: Me, found: StoredSubscription, *, plan_id: str, action: str) -> ChangedSubscription:
    """Of a subscription that no provider bills."""
    async with me.unit_of_work.change() as change:
        changed = await plan_changes.change(
            change.connection, found.id, now=now(), actor=change.actor, plan_id=plan_id, at_period_end=True
        )
        after = ChangedSubscription.model_validate(changed.subscription)
        await change.record(action, "subscription", entity_id=found.id, before=shown(found), after=after)
    return after


async def _wanted(connection: AsyncConnection, me: Me, found: StoredSubscription, *, name: str) -> StoredPlan:
    """The plan of a change: the subscription's own as the subscription has it, also where it is not sold any more."""
    plan = await plans.find(connection, name)
    if plan is not None and plan.id == found.plan_id:
        return await plan_of(connection, found)
    return await offered_plan(connection, me, name)
