"""A user's own subscription: start, read, change, cancel.

A subscription that a provider bills is changed there first; then the provider's state is applied, as after a webhook.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.convertors import StringConvertor, register_url_convertor

from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.checkout import (
    CheckoutService,
    CheckoutServiceDep,
    ProviderName,
    Sale,
    check_seats,
    create_plan_checkout,
    plan_price_id,
)
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, SIGNED_IN, UNKNOWN
from gateway.api.schemas.fields import Line, PositiveCount
from gateway.api.schemas.pages import RequestModel, ResponseModel
from gateway.clock import now
from gateway.ledger.accounts import persons
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms, StoredPlan
from gateway.ledger.db.errors import NotFound
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import MANUAL, StoredSubscription, transition
from gateway.payments.provider import Provider
from policies.access.persons import digest
from policies.billing.payments import ObjectKind, ObjectRef
from policies.billing.subscriptions import SubscriptionEvent
from policies.credits.allowances import has_seats
from policies.model import SubscriptionStatus


class _OtherThanMe(StringConvertor):
    """`/subscriptions/me` is a path of its own, whatever plan may be called so."""

    regex = "(?!me(?:/|$))[^/]+"


register_url_convertor("other_than_me", _OtherThanMe())
# Two paths that differ in the name of a parameter only would be the same one (OpenAPI 3.1, Paths Object).
PlanInPath = Annotated[Line, Path(alias="id", description="POST: the plan's name or id.")]
IdInPath = Annotated[UUID, Path(alias="id", description="DELETE: the subscription's id.")]

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"], responses=SIGNED_IN)


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
    next_plan_id: str | None = Field(description="The plan of its next period; null: the same.")
    credits_withheld: Literal["unverified", "same_person"] | None = Field(
        description="Why a free plan gives no credits. unverified: it gives them once your address is verified; "
        "same_person: another account of yours has them."
    )
    created_at: datetime


class BegunSubscription(OwnSubscription):
    checkout_id: UUID | None = Field(default=None, description="Of a paid plan.")
    checkout_url: str | None = Field(default=None, description="Where to pay for a paid plan.")


class Order(RequestModel):
    quantity: PositiveCount = Field(default=1, description="Seats, of a plan that has them; of any other only 1.")
    provider: ProviderName | None = Field(default=None, description="Who takes the payment; the default if left out.")


class PlanChange(RequestModel):
    plan_id: Line = Field(examples=["pro"])
    quantity: PositiveCount | None = Field(
        default=None, description="null: as many seats as now, or 1 of a plan without seats."
    )


class Ending(RequestModel):
    now: bool = Field(default=False, description="true: at once, not with the period.")


@router.get("/me", summary="Your subscription", responses=UNKNOWN)
async def get_my_subscription(me: Me) -> OwnSubscription:
    """The current one, or else the last one there was; 404 before the first."""
    async with me.unit_of_work.read() as connection:
        found = await subscriptions.get_latest(connection, me.id)
    if found is None:
        raise NotFound("subscription", "yet; POST /subscriptions/{plan_id} begins one")
    return OwnSubscription.model_validate(found)


@router.post(
    "/{id:other_than_me}", status_code=201, summary="Subscribe to a plan", responses=UNKNOWN | CONFLICTS | PAID_FOR
)
async def subscribe(
    plan_id: PlanInPath,
    me: Me,
    dependencies: DependenciesDep,
    checkout_service: CheckoutServiceDep,
    order: Annotated[Order | None, Body()] = None,
) -> BegunSubscription:
    """A free plan is active at once. A paid one is incomplete until it is paid for at `checkout_url`.

    A free plan that you cancelled goes on with the period it had, whose credits are not given twice. Credits of a free
    plan, and trials, wait until your address is verified, where the operator requires it.
    """
    order = order or Order()
    await _remember_person(me, dependencies, requires_verified=checkout_service.requires_verified)
    async with me.unit_of_work.read() as connection:
        plan = await _offered(connection, plan_id)
        current = await subscriptions.get_current(connection, me.id)
    check_seats(plan, order.quantity)
    if not _is_free(plan.terms):
        _check_may_buy(current, plan)
        sale = Sale(checkout_service, dependencies.database, me.user, order.provider)
        checkout = await create_plan_checkout(sale, plan, quantity=order.quantity, now=now())
        waiting = await _read_own(me, checkout.subscription_id)
        return _started(waiting, checkout_id=checkout.id, checkout_url=checkout.url)
    async with me.unit_of_work.change() as change:
        started = await lifecycle.start(
            change.connection,
            me.id,
            plan_id=plan.id,
            now=now(),
            actor=change.actor,
            is_own_doing=True,
            requires_verified=checkout_service.requires_verified,
        )
        await change.record("subscriptions.start", "subscription", entity_id=started.id, after=_shown(started))
    return _started(started)


@router.delete("/{id:other_than_me}", summary="End a subscription", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def end_subscription(
    subscription_id: IdInPath,
    ending: Annotated[Ending, Query()],
    me: Me,
    dependencies: DependenciesDep,
    checkout_service: CheckoutServiceDep,
) -> OwnSubscription:
    """With its period; you have access until then. With `?now=true` at once."""
    found = await _read_own(me, subscription_id)
    at_period_end = not ending.now and found.status is not SubscriptionStatus.INCOMPLETE
    transition(found, SubscriptionEvent.CANCEL_AT_PERIOD_END if at_period_end else SubscriptionEvent.CANCEL_NOW)
    if _is_billed(found):
        provider = checkout_service.provider(found.provider)
        call = provider.cancel(_remote_id(found), at_period_end=at_period_end)
        return await _change_at_provider(me, dependencies, provider, found, call=call)
    async with me.unit_of_work.change() as change:
        ended = await lifecycle.cancel(change.connection, found.id, now=now(), at_period_end=at_period_end)
        await change.record(
            "subscriptions.cancel", "subscription", entity_id=found.id, before=_shown(found), after=_shown(ended)
        )
    return _shown(ended)


@router.post("/{subscription_id}/undo-cancel", summary="Let it go on", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def undo_cancellation(
    subscription_id: UUID, me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep
) -> OwnSubscription:
    """One that was to end with its period does not."""
    found = await _read_own(me, subscription_id)
    transition(found, SubscriptionEvent.UNDO_CANCEL)
    if _is_billed(found):
        provider = checkout_service.provider(found.provider)
        call = provider.resume(_remote_id(found))
        return await _change_at_provider(me, dependencies, provider, found, call=call)
    async with me.unit_of_work.change() as change:
        resumed = await lifecycle.undo_cancel(change.connection, found.id)
        await change.record(
            "subscriptions.undo_cancel", "subscription", entity_id=found.id, before=_shown(found), after=_shown(resumed)
        )
    return _shown(resumed)


@router.post("/{subscription_id}/change", summary="Change to another plan", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def change_plan(
    subscription_id: UUID, body: PlanChange, me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep
) -> OwnSubscription:
    """Between paid plans at once, price and credits in proportion to what is left of the period; to a free plan with
    the next period. From a free plan to a paid one, subscribe to that."""
    found = await _read_own(me, subscription_id)
    transition(found, SubscriptionEvent.CHANGE_PLAN)
    async with me.unit_of_work.read() as connection:
        plan = await _wanted(connection, found, body.plan_id)
    check_seats(plan, body.quantity)
    if _is_billed(found):
        seats = (body.quantity or found.quantity) if has_seats(plan.terms.pricing_model) else 1
        return await _change_billed(me, dependencies, checkout_service, found, plan=plan, quantity=seats)
    if not _is_free(plan.terms):
        raise Conflict(f"{plan.id} is to be paid for: POST /subscriptions/{plan.id}; it takes over once it is.")
    if body.quantity is not None:
        raise Invalid("quantity", "is for plans that are paid for")
    async with me.unit_of_work.change() as change:
        changed = await plan_changes.change(
            change.connection, found.id, now=now(), actor=change.actor, plan_id=plan.id, at_period_end=True
        )
        after = _shown(changed.subscription)
        await change.record(
            "subscriptions.change", "subscription", entity_id=found.id, before=_shown(found), after=after
        )
    return after


async def _remember_person(me: Me, dependencies: DependenciesDep, *, requires_verified: bool) -> None:
    """So that trials and free credits are found again. Debts return to a proven address only, which they tell about."""
    async with me.unit_of_work.change() as change:
        await persons.remember(change.connection, me.id, digest(dependencies.secret, me.user.email))
        if not requires_verified or me.user.email_verified_at is not None:
            await persons.take_over_debt(change.connection, me.id, actor=change.actor)


async def _change_billed(
    me: Me,
    dependencies: DependenciesDep,
    checkout_service: CheckoutService,
    found: StoredSubscription,
    *,
    plan: StoredPlan,
    quantity: int,
) -> OwnSubscription:
    if _is_free(plan.terms):
        raise Conflict("End this subscription; once it is over, subscribe to the free plan.")
    provider = checkout_service.provider(found.provider)
    price_id = plan_price_id(provider, plan)
    key = f"{found.id}:{plan.id}:{quantity}:{found.updated_at.isoformat()}"
    is_metered = plan.terms.pricing_model == "usage"
    call = provider.change_plan(
        _remote_id(found), price_id=price_id, quantity=None if is_metered else quantity, key=key
    )
    return await _change_at_provider(me, dependencies, provider, found, call=call)


async def _change_at_provider(
    me: Me, dependencies: DependenciesDep, provider: Provider, found: StoredSubscription, *, call: Awaitable[None]
) -> OwnSubscription:
    """Makes the call, then fetches and applies the result. Raises ProviderUnavailable, ProviderRefused."""
    await call
    fetch = partial(provider.fetch, ObjectRef(ObjectKind.SUBSCRIPTION, _remote_id(found)))
    update = await fetch_update(dependencies.database, provider, fetch)
    async with me.unit_of_work.change() as change:
        await apply_update(change.connection, update)
        after = _shown(await _get_own(change.connection, me, found.id))
        await change.record(
            "subscriptions.change_at_provider", "subscription", entity_id=found.id, before=_shown(found), after=after
        )
    return after


def _check_may_buy(current: StoredSubscription | None, plan: StoredPlan) -> None:
    """A paid subscription supersedes a free one; a second paid one would be charged as well. Raises Conflict."""
    if current is None:
        return
    if current.plan_id == plan.id:
        raise Conflict(f"You are on the plan {plan.id} already.")
    if _is_billed(current):
        raise Conflict(f"POST /subscriptions/{current.id}/change changes the plan of the subscription you have.")


async def _offered(connection: AsyncConnection, name: str) -> StoredPlan:
    plan = await plans.find(connection, name)
    if plan is None or not plan.terms.is_active:
        raise NotFound("plan", name)
    return plan


async def _wanted(connection: AsyncConnection, found: StoredSubscription, name: str) -> StoredPlan:
    """The plan of a change: the subscription's own as the subscription has it, also where it is not sold any more."""
    plan = await plans.find(connection, name)
    if plan is not None and plan.id == found.plan_id:
        return await plan_of(connection, found)
    return await _offered(connection, name)


async def _read_own(me: Me, subscription_id: UUID | None) -> StoredSubscription:
    async with me.unit_of_work.read() as connection:
        return await _get_own(connection, me, subscription_id)


async def _get_own(connection: AsyncConnection, me: Me, subscription_id: UUID | None) -> StoredSubscription:
    found = None if subscription_id is None else await subscriptions.get(connection, subscription_id)
    if found is None or found.user_id != me.id:
        raise NotFound("subscription", subscription_id)
    return found


def _is_free(terms: PlanTerms) -> bool:
    return terms.price == 0 and terms.pricing_model in ("flat", "per_seat") and terms.overage is None


def _is_billed(subscription: StoredSubscription) -> bool:
    """Whether a provider has it; a subscription that was never paid for exists here alone."""
    return subscription.provider != MANUAL and subscription.provider_subscription_id is not None


def _remote_id(subscription: StoredSubscription) -> str:
    return subscription.provider_subscription_id or ""


def _shown(subscription: StoredSubscription) -> OwnSubscription:
    return OwnSubscription.model_validate(subscription)


def _started(
    subscription: StoredSubscription, *, checkout_id: UUID | None = None, checkout_url: str | None = None
) -> BegunSubscription:
    shown = _shown(subscription).model_dump()
    return BegunSubscription(**shown, checkout_id=checkout_id, checkout_url=checkout_url)
