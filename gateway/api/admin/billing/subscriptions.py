"""Subscriptions of all users: start, list, change, cancel, pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Query
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.catalogue.plans import existing_plan, offered_plan
from gateway.api.admin.dependencies import ReasonDep, UnitOfWorkDep
from gateway.api.billed_subscriptions import change_at_provider, fetch_state, is_billed
from gateway.api.checkout import CheckoutService, CheckoutServiceDep, check_seats
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, UNKNOWN
from gateway.api.schemas.fields import Flag, Line, PositiveCount
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, ResponseModel, page_of
from gateway.api.unit_of_work import Change, UnitOfWork
from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import NotFound
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.payments import provider_instructions
from gateway.ledger.payments.provider_updates import apply_update
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.payments.provider import Provider
from policies.billing.providers import PROVIDERS
from policies.billing.subscriptions import SubscriptionEvent
from policies.credits.allowances import has_seats
from policies.model import SubscriptionStatus

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"])


class Subscription(ResponseModel):
    id: UUID
    user_id: UUID
    plan_id: str
    plan_version: int
    status: SubscriptionStatus
    quantity: int = Field(description="Seats, where the plan is per seat.")
    provider: str = Field(description="`manual`: no payment provider renews it.")
    provider_subscription_id: str | None
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool
    canceled_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    past_due_since: datetime | None = Field(description="When a payment failed that nobody has made since.")
    superseded_by: UUID | None = Field(
        description="The subscription that took its place while a provider billed both, so two plans were paid for."
    )
    paused_here: bool = Field(description="An operator has paused it.")
    payments_paused: bool = Field(
        description="Its provider charges nothing until it is resumed, or until the suspended account is active again."
    )
    keeps_version: bool = Field(description="It holds to `plan_version`, whatever became of the plan.")
    next_plan_id: str | None = Field(description="The plan of its next period; null: the same.")
    next_quantity: int | None
    credits_withheld: Literal["unverified", "same_person"] | None = Field(
        description="Why a free plan gives no credits; null: it gives them."
    )
    created_at: datetime
    updated_at: datetime


class SubscriptionWithConfirmation(Subscription):
    confirmation_url: str | None = Field(
        default=None,
        description="Where the customer confirms the payment (3-D Secure); it changes once that is paid. null: it has.",
    )


class NewSubscription(RequestModel):
    user_id: UUID
    plan_id: Line = Field(examples=["pro"], description="The plan's id or name.")
    quantity: PositiveCount = 1
    trial: Flag = Field(default=False, description="Begins with the account's one trial, of the plan's length.")
    reason: Line | None = Field(default=None, description="Stands in the audit log.")


class SubscriptionList(PageQuery):
    user_id: UUID | None = None
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    status: SubscriptionStatus | None = None
    superseded: bool | None = Field(default=None, description="true: those that another one superseded, paid twice.")


class Cancellation(RequestModel):
    at_period_end: Flag = Field(default=True, description="False: now.")
    reason: Line | None = Field(default=None, description="Stands in the audit log.")


class SubscriptionChange(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["plan_id"], "properties": {"plan_id": {"type": "string"}}},
                {"required": ["quantity"], "properties": {"quantity": {"type": "integer"}}},
            ]
        }
    )

    plan_id: Line | None = Field(default=None, examples=["pro"], description="null: the same.")
    quantity: PositiveCount | None = Field(default=None, description="null: the same.")
    at_period_end: Flag = Field(default=False, description="True: the next period begins with it.")
    reason: Line | None = Field(default=None, description="Stands in the audit log.")


@router.post("", status_code=201, summary="Start a subscription", responses=UNKNOWN | CONFLICTS)
async def start_subscription(body: NewSubscription, unit_of_work: UnitOfWorkDep) -> Subscription:
    """Active at once, with the plan's credits for its first period. A user has one current subscription at a time."""
    async with unit_of_work.change() as change:
        if await users.get(change.connection, body.user_id) is None:
            raise NotFound("user", body.user_id)
        plan = await offered_plan(change.connection, body.plan_id)
        check_seats(plan, body.quantity)
        if body.trial and plan.terms.trial_period_days == 0:
            raise Conflict(f"The plan {plan.id} has no trial; set its trial_period_days, or start without.")
        started = Subscription.model_validate(await _start(change, body, plan))
        await change.record(
            "subscriptions.start", "subscription", entity_id=started.id, after=started, reason=body.reason
        )
    return started


@router.get("", summary="List subscriptions")
async def list_subscriptions(
    query: Annotated[SubscriptionList, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[Subscription]:
    async with unit_of_work.read() as connection:
        page = await subscriptions.list_subscriptions(connection, **query.model_dump())
    return page_of(page, Subscription.model_validate)


@router.get("/{subscription_id}", summary="Get a subscription", responses=UNKNOWN)
async def get_subscription(subscription_id: UUID, unit_of_work: UnitOfWorkDep) -> Subscription:
    async with unit_of_work.read() as connection:
        found = await subscriptions.get(connection, subscription_id)
    if found is None:
        raise NotFound("subscription", subscription_id)
    return Subscription.model_validate(found)


@router.post("/{subscription_id}/change", summary="Change plan or seats", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def change_subscription(
    subscription_id: UUID, body: SubscriptionChange, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep
) -> SubscriptionWithConfirmation:
    """Now, with credits given or taken in proportion to what is left of the period, or from the next period on. Where a
    payment provider bills it, the provider changes it, and charges or gives back the difference."""
    if body.plan_id is None and body.quantity is None:
        raise Invalid("plan_id", "give plan_id, quantity, or both")
    if (billed := await _billed(unit_of_work, subscription_id)) is not None:
        return await _change_billed(unit_of_work, checkout_service, billed, body)
    async with _changed(unit_of_work, subscription_id, "subscriptions.change", reason=body.reason) as (change, found):
        plan = await _wanted_plan(change.connection, subscription_id, name=body.plan_id)
        if plan.id == found.plan_id and not has_seats(plan.terms.pricing_model):
            plan = await existing_plan(change.connection, plan.id)  # it may have seats from the next period on
        check_seats(plan, body.quantity)
        await plan_changes.change(
            change.connection,
            subscription_id,
            now=now(),
            actor=change.actor,
            plan_id=None if body.plan_id is None else plan.id,
            quantity=body.quantity if has_seats(plan.terms.pricing_model) else 1,
            at_period_end=body.at_period_end,
        )
    return SubscriptionWithConfirmation(**(await get_subscription(subscription_id, unit_of_work)).model_dump())


@router.post("/{subscription_id}/cancel", summary="Cancel a subscription", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def cancel_subscription(
    subscription_id: UUID,
    unit_of_work: UnitOfWorkDep,
    checkout_service: CheckoutServiceDep,
    body: Annotated[Cancellation | None, Body()] = None,
) -> Subscription:
    """At the end of its period unless told otherwise, at its payment provider too. Credits that were granted stay until
    they expire."""
    at_period_end = body.at_period_end if body else True
    reason = body.reason if body else None
    if (billed := await _billed(unit_of_work, subscription_id)) is not None:
        event = SubscriptionEvent.CANCEL_AT_PERIOD_END if at_period_end else SubscriptionEvent.CANCEL_NOW
        subscriptions.transition(billed, event)
        provider = checkout_service.provider(billed.provider)
        await provider.cancel(billed.provider_subscription_id or "", at_period_end=at_period_end)
        return await _synced(unit_of_work, provider, billed, "subscriptions.cancel", reason=reason)
    async with _changed(unit_of_work, subscription_id, "subscriptions.cancel", reason=reason) as (change, _):
        await lifecycle.cancel(change.connection, subscription_id, now=now(), at_period_end=at_period_end)
    return await get_subscription(subscription_id, unit_of_work)


@router.post(
    "/{subscription_id}/undo-cancel", summary="Let a subscription go on", responses=UNKNOWN | CONFLICTS | PAID_FOR
)
async def undo_cancellation(
    subscription_id: UUID, unit_of_work: UnitOfWorkDep, checkout_service: CheckoutServiceDep, reason: ReasonDep
) -> Subscription:
    """One that was to end with its period does not."""
    if (billed := await _billed(unit_of_work, subscription_id)) is not None:
        subscriptions.transition(billed, SubscriptionEvent.UNDO_CANCEL)
        provider = checkout_service.provider(billed.provider)
        await provider.resume(billed.provider_subscription_id or "")
        return await _synced(unit_of_work, provider, billed, "subscriptions.undo_cancel", reason=reason)
    async with _changed(unit_of_work, subscription_id, "subscriptions.undo_cancel", reason=reason) as (change, _):
        await lifecycle.undo_cancel(change.connection, subscription_id)
    return await get_subscription(subscription_id, unit_of_work)


@router.post("/{subscription_id}/pause", summary="Pause a subscription", responses=UNKNOWN | CONFLICTS)
async def pause_subscription(subscription_id: UUID, unit_of_work: UnitOfWorkDep, reason: ReasonDep) -> Subscription:
    """From the very next request on calls are refused with 402; no period begins until it is resumed. Where a payment
    provider bills it, its payments pause there within a minute: what falls due meanwhile is voided."""
    async with _changed(unit_of_work, subscription_id, "subscriptions.pause", reason=reason) as (change, found):
        pause = lifecycle.pause if found.provider_subscription_id is None else provider_instructions.pause
        await pause(change.connection, subscription_id)
    return await get_subscription(subscription_id, unit_of_work)


@router.post("/{subscription_id}/resume", summary="Resume a subscription", responses=UNKNOWN | CONFLICTS)
async def resume_subscription(subscription_id: UUID, unit_of_work: UnitOfWorkDep, reason: ReasonDep) -> Subscription:
    """With the period it was paused in or, where that is over, with a new one: at once, or where a payment provider
    bills it when the provider's next one begins."""
    async with _changed(unit_of_work, subscription_id, "subscriptions.resume", reason=reason) as (change, found):
        if found.provider_subscription_id is None:
            await lifecycle.resume(change.connection, subscription_id, now=now(), actor=change.actor)
        elif found.status is SubscriptionStatus.PAUSED and not found.paused_here:
            raise Conflict(f"{PROVIDERS[found.provider].title} has paused it, so it is resumed there.")
        else:
            await provider_instructions.resume(change.connection, subscription_id)
    return await get_subscription(subscription_id, unit_of_work)


async def _change_billed(
    unit_of_work: UnitOfWork,
    checkout_service: CheckoutService,
    found: subscriptions.StoredSubscription,
    body: SubscriptionChange,
) -> SubscriptionWithConfirmation:
    subscriptions.transition(found, SubscriptionEvent.CHANGE_PLAN)
    async with unit_of_work.read() as connection:
        plan = await _wanted_plan(connection, found.id, name=body.plan_id)
    check_seats(plan, body.quantity)
    confirmation_url = await change_at_provider(
        unit_of_work,
        checkout_service,
        found,
        plan=plan,
        quantity=body.quantity,
        at_period_end=body.at_period_end,
    )
    provider = checkout_service.provider(found.provider)
    after = await _synced(unit_of_work, provider, found, "subscriptions.change", reason=body.reason)
    return SubscriptionWithConfirmation(**after.model_dump(), confirmation_url=confirmation_url)


async def _wanted_plan(connection: AsyncConnection, subscription_id: UUID, *, name: str | None) -> StoredPlan:
    """The plan of a change: the subscription's own in its version, also where it is not sold any more.

    Raises NotFound, Conflict.
    """
    found = await subscriptions.get_existing(connection, subscription_id)
    if name is None or (plan := await existing_plan(connection, name)).id == found.plan_id:
        return await plan_of(connection, found)
    return await offered_plan(connection, plan.id)


async def _billed(unit_of_work: UnitOfWork, subscription_id: UUID) -> subscriptions.StoredSubscription | None:
    """The subscription where a provider has it; one that was never paid for exists here alone."""
    async with unit_of_work.read() as connection:
        found = await subscriptions.get(connection, subscription_id)
    if found is None:
        raise NotFound("subscription", subscription_id)
    return found if is_billed(found) else None


async def _synced(
    unit_of_work: UnitOfWork,
    provider: Provider,
    found: subscriptions.StoredSubscription,
    action: str,
    *,
    reason: str | None,
) -> Subscription:
    """The subscription as its provider has it now, after a change there."""
    update = await fetch_state(unit_of_work, provider, found)
    async with unit_of_work.change() as change:
        await apply_update(change.connection, update)
        after = Subscription.model_validate(await subscriptions.get_existing(change.connection, found.id))
        before = Subscription.model_validate(found)
        await change.record(action, "subscription", entity_id=found.id, before=before, after=after, reason=reason)
    return after


async def _start(change: Change, body: NewSubscription, plan: StoredPlan) -> subscriptions.StoredSubscription:
    if not body.trial:
        return await lifecycle.start(
            change.connection,
            body.user_id,
            plan_id=plan.id,
            quantity=body.quantity,
            now=now(),
            actor=change.actor,
        )
    return await lifecycle.start_trial(
        change.connection,
        body.user_id,
        plan_id=plan.id,
        quantity=body.quantity,
        days=plan.terms.trial_period_days,
        now=now(),
        actor=change.actor,
    )


@asynccontextmanager
async def _changed(
    unit_of_work: UnitOfWork, subscription_id: UUID, action: str, *, reason: str | None = None
) -> AsyncIterator[tuple[Change, Subscription]]:
    """The subscription as no other change can alter it; what the block did to it is noted."""
    async with unit_of_work.change() as change:
        found = await subscriptions.get_for_update(change.connection, subscription_id)
        before = Subscription.model_validate(found)
        yield change, before
        after = Subscription.model_validate(await subscriptions.get(change.connection, subscription_id))
        await change.record(
            action, "subscription", entity_id=subscription_id, before=before, after=after, reason=reason
        )
