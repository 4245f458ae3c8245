"""Subscriptions: who is on which plan, until when."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.collaborators import TheDesk
from gateway.api.admin.plans import offered_plan
from gateway.api.errors import Conflict
from gateway.api.fields import Flag, Line
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.shapes import Given, Shown
from gateway.clock import now
from gateway.ledger import accounts, subscriptions
from gateway.ledger.errors import NotFound
from gateway.ledger.tables.contracts import CURRENT_STATUSES
from gateway.ledger.versions import bump_account
from policies.model import SubscriptionStatus

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"])


class Subscription(Shown):
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


class NewSubscription(Given):
    user_id: UUID
    plan_id: Line = Field(examples=["pro"], description="The plan's id or name.")


class Cancellation(Given):
    at_period_end: Flag = Field(default=True, description="False: now.")


@router.post("", status_code=201, summary="Start a subscription", responses=UNKNOWN | CONFLICTS)
async def start_subscription(given: NewSubscription, desk: TheDesk) -> Subscription:
    """Active at once, with the plan's credits for its first period. A user has one current subscription at a time."""
    async with desk.change() as change:
        if await accounts.get(change.connection, given.user_id) is None:
            raise NotFound("user", given.user_id)
        plan = await offered_plan(change.connection, given.plan_id)
        begun = await subscriptions.start(
            change.connection, given.user_id, plan_id=plan.id, now=now(), actor=change.actor
        )
        started = Subscription.model_validate(begun)
        await change.note("subscriptions.start", "subscription", entity_id=started.id, after=started)
    return started


@router.get("/{subscription_id}", summary="Get a subscription", responses=UNKNOWN)
async def get_subscription(subscription_id: UUID, desk: TheDesk) -> Subscription:
    async with desk.read() as connection:
        return await _existing(connection, subscription_id)


@router.post("/{subscription_id}/cancel", summary="Cancel a subscription", responses=UNKNOWN | CONFLICTS)
async def cancel_subscription(
    subscription_id: UUID, desk: TheDesk, given: Annotated[Cancellation | None, Body()] = None
) -> Subscription:
    """At the end of its period unless told otherwise. Credits that were granted stay."""
    at_period_end = given.at_period_end if given else True
    async with desk.change() as change:
        found = await _existing(change.connection, subscription_id)
        await bump_account(change.connection, found.user_id)  # a lock: it is read again as no other change can alter it
        before = await _existing(change.connection, subscription_id)
        if before.status not in CURRENT_STATUSES:
            raise Conflict(f"This subscription is {before.status}; only a current one can be cancelled.")
        ended = await subscriptions.cancel(change.connection, subscription_id, now=now(), at_period_end=at_period_end)
        after = Subscription.model_validate(ended)
        await change.note("subscriptions.cancel", "subscription", entity_id=after.id, before=before, after=after)
    return after


async def _existing(connection: AsyncConnection, subscription_id: UUID) -> Subscription:
    found = await subscriptions.get(connection, subscription_id)
    if found is None:
        raise NotFound("subscription", subscription_id)
    return Subscription.model_validate(found)
