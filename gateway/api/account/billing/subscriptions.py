"""A user's own subscription: start, read, cancel. `plan_changes.py` changes its plan."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field
from starlette.convertors import StringConvertor, register_url_convertor

from gateway.api.account.billing.own_subscription import (
    OwnSubscription,
    offered_plan,
    read_own,
    shown,
    sync,
)
from gateway.api.account.dependencies import DependenciesDep, Me
from gateway.api.billed_subscriptions import is_billed, is_free, remote_id
from gateway.api.checkout import (
    CheckoutServiceDep,
    ProviderName,
    Sale,
    check_seats,
    create_plan_checkout,
    pace_provider_calls,
)
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, PAID_FOR, SIGNED_IN, UNKNOWN
from gateway.api.schemas.fields import CouponCode, CouponInQuery, Line, PositiveCount
from gateway.api.schemas.pages import RequestModel
from gateway.clock import now
from gateway.ledger.accounts import persons
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.db.errors import NotFound
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, transition
from policies.access.persons import digest
from policies.billing.subscriptions import SubscriptionEvent
from policies.model import SubscriptionStatus


class _OtherThanMe(StringConvertor):
    """`/subscriptions/me` is a path of its own, whatever plan may be called so."""

    regex = "(?!me(?:/|$))[^/]+"


register_url_convertor("other_than_me", _OtherThanMe())
# Two paths that differ in the name of a parameter only would be the same one (OpenAPI 3.1, Paths Object).
PlanInPath = Annotated[Line, Path(alias="id", description="POST: the plan's name or id.")]
IdInPath = Annotated[UUID, Path(alias="id", description="DELETE: the subscription's id.")]

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"], responses=SIGNED_IN)


class BegunSubscription(OwnSubscription):
    checkout_id: UUID | None = Field(default=None, description="Of a paid plan.")
    checkout_url: str | None = Field(default=None, description="Where to pay for a paid plan.")


class Order(RequestModel):
    quantity: PositiveCount = Field(default=1, description="Seats, of a plan that has them; of any other only 1.")
    provider: ProviderName | None = Field(default=None, description="Who takes the payment; the default if left out.")
    coupon: CouponCode | None = Field(default=None, description="Of a paid plan. `?coupon=` does the same.")


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
    coupon: CouponInQuery = None,
) -> BegunSubscription:
    """A free plan is active at once. A paid one is incomplete until it is paid for at `checkout_url`.

    A free plan that you cancelled goes on with the period it had, whose credits are not given twice. Credits of a free
    plan, and trials, wait until your address is verified, where the operator requires it.
    """
    order = order or Order()
    await _remember_person(me, dependencies, requires_verified=checkout_service.requires_verified)
    async with me.unit_of_work.read() as connection:
        plan = await offered_plan(connection, me, plan_id)
        current = await subscriptions.get_current(connection, me.id)
    check_seats(plan, order.quantity)
    if not is_free(plan.terms):
        _check_may_buy(current, plan)
        checkout_service.provider(order.provider)
        pace_provider_calls(me.user)
        sale = Sale(checkout_service, dependencies.database, me.user, order.provider)
        checkout = await create_plan_checkout(
            sale, plan, quantity=order.quantity, now=now(), coupon=order.coupon or coupon
        )
        waiting = await read_own(me, checkout.subscription_id)
        return _started(waiting, checkout_id=checkout.id, checkout_url=checkout.url)
    if order.coupon or coupon:
        raise Invalid("coupon", f"is for what costs something, and {plan.id} is free")
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
        await change.record("subscriptions.start", "subscription", entity_id=started.id, after=shown(started))
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
    found = await read_own(me, subscription_id)
    at_period_end = not ending.now and found.status is not SubscriptionStatus.INCOMPLETE
    transition(found, SubscriptionEvent.CANCEL_AT_PERIOD_END if at_period_end else SubscriptionEvent.CANCEL_NOW)
    if is_billed(found):
        pace_provider_calls(me.user)
        provider = checkout_service.provider(found.provider)
        await provider.cancel(remote_id(found), at_period_end=at_period_end)
        return await sync(me, dependencies, provider, found)
    async with me.unit_of_work.change() as change:
        ended = await lifecycle.cancel(change.connection, found.id, now=now(), at_period_end=at_period_end)
        await change.record(
            "subscriptions.cancel", "subscription", entity_id=found.id, before=shown(found), after=shown(ended)
        )
    return shown(ended)


@router.post("/{subscription_id}/undo-cancel", summary="Let it go on", responses=UNKNOWN | CONFLICTS | PAID_FOR)
async def undo_cancellation(
    subscription_id: UUID, me: Me, dependencies: DependenciesDep, checkout_service: CheckoutServiceDep
) -> OwnSubscription:
    """One that was to end with its period does not."""
    found = await read_own(me, subscription_id)
    transition(found, SubscriptionEvent.UNDO_CANCEL)
    if is_billed(found):
        pace_provider_calls(me.user)
        provider = checkout_service.provider(found.provider)
        await provider.resume(remote_id(found))
        return await sync(me, dependencies, provider, found)
    async with me.unit_of_work.change() as change:
        resumed = await lifecycle.undo_cancel(change.connection, found.id)
        await change.record(
            "subscriptions.undo_cancel", "subscription", entity_id=found.id, before=shown(found), after=shown(resumed)
        )
    return shown(resumed)


async def _remember_person(me: Me, dependencies: DependenciesDep, *, requires_verified: bool) -> None:
    """So that trials and free credits are found again. Debts return to a proven address only, which they tell about."""
    async with me.unit_of_work.change() as change:
        is_proven = me.user.email_verified_at is not None
        person = digest(dependencies.secret, me.user.email)
        await persons.remember(change.connection, me.id, person, is_proven=is_proven)
        if is_proven or not requires_verified:
            await persons.take_over_debt(change.connection, me.id, actor=change.actor)


def _check_may_buy(current: StoredSubscription | None, plan: StoredPlan) -> None:
    """A paid subscription supersedes a free one; a second paid one would be charged as well. Raises Conflict."""
    if current is None:
        return
    if current.plan_id == plan.id:
        raise Conflict(f"You are on the plan {plan.id} already.")
    if is_billed(current):
        raise Conflict(f"POST /subscriptions/{current.id}/change changes the plan of the subscription you have.")


def _started(
    subscription: StoredSubscription, *, checkout_id: UUID | None = None, checkout_url: str | None = None
) -> BegunSubscription:
    return BegunSubscription(**shown(subscription).model_dump(), checkout_id=checkout_id, checkout_url=checkout_url)
