"""What users see of their own subscription, and how it is changed where a provider bills it.

It is changed there first; then the provider's state is applied, as after a webhook.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.billed_subscriptions import fetch_state
from gateway.api.schemas.pages import ResponseModel
from gateway.ledger.catalogue import experiments, plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments.provider_updates import apply_update
from gateway.ledger.subscriptions import subscriptions
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import Provider
from policies.model import SubscriptionStatus


class OwnSubscription(ResponseModel):
    id: UUID
    plan_id: str
    plan_version: int
    status: SubscriptionStatus = Field(description="incomplete: it waits to be paid for")
    quantity: int = Field(description="Seats, where the plan is per seat.")
    provider: str = Field(description="Who takes the payments; `manual`: nobody does.")
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool
    canceled_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    past_due_since: datetime | None = Field(description="When a payment failed that nobody has made since.")
    next_plan_id: str | None = Field(description="The plan of its next period; null: no change is scheduled.")
    next_quantity: int | None = Field(description="The seats of its next period; null: no change is scheduled.")
    credits_withheld: Literal["unverified", "same_person"] | None = Field(
        description="Why a free plan gives no credits. unverified: it gives them once your address is verified; "
        "same_person: another account of yours has them."
    )
    created_at: datetime


def shown(subscription: StoredSubscription) -> OwnSubscription:
    return OwnSubscription.model_validate(subscription)


async def read_own(me: Me, subscription_id: UUID | None) -> StoredSubscription:
    """Raises NotFound."""
    async with me.unit_of_work.read() as connection:
        return await get_own(connection, me, subscription_id)


async def get_own(connection: AsyncConnection, me: Me, subscription_id: UUID | None) -> StoredSubscription:
    """Raises NotFound."""
    found = None if subscription_id is None else await subscriptions.get(connection, subscription_id)
    if found is None or found.user_id != me.id:
        raise NotFound("subscription", subscription_id)
    return found


async def offered_plan(connection: AsyncConnection, me: Me, name: str) -> StoredPlan:
    """Raises NotFound for a plan that is not sold, or that an experiment offers to others."""
    plan = await plans.find(connection, name)
    if plan is None or not plan.terms.is_active or plan.id in await experiments.hidden_from(connection, me.id):
        raise NotFound("plan", name)
    return plan


async def sync(me: Me, dependencies: DependenciesDep, provider: Provider, found: StoredSubscription) -> OwnSubscription:
    """Applies what the provider has made of it. Raises ProviderUnavailable, ProviderRefused."""
    update = await fetch_state(dependencies.database, provider, found)
    async with me.unit_of_work.change() as change:
        await apply_update(change.connection, update)
        after = shown(await get_own(change.connection, me, found.id))
        await change.record(
            "subscriptions.change_at_provider", "subscription", entity_id=found.id, before=shown(found), after=after
        )
    return after
