"""Who is on which plan: begun, paid for, changed and ended. What the clock alone brings is in `turning.py`.

Every verb locks the account first and bumps its version, so that its change holds from the next request on, and asks
the table of `policies.subscriptions` whether it may: raises NotFound for no such subscription, IllegalTransition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.credits.allowances import begin_period, carry_on, credits_of, plan_of, prorate
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.tables import subscription_plans, subscriptions, users
from gateway.ledger.db.versions import bump_account
from gateway.ledger.invoicing import issued_invoices
from gateway.ledger.payments.provider_subscriptions import sync_from_provider
from gateway.ledger.subscriptions.subscription_rows import (
    OURS,
    IllegalTransition,
    StoredSubscription,
    add,
    after,
    current,
    get,
    get_by_provider,
    had_trial,
    latest,
    list_subscriptions,
    locked,
    put,
)
from policies.billing.periods import Period, Span, period
from policies.billing.subscriptions import Event
from policies.credits.allowances import share_left
from policies.model import SubscriptionStatus

__all__ = [
    "OURS",
    "Changed",
    "IllegalTransition",
    "StoredSubscription",
    "await_payment",
    "cancel",
    "change",
    "current",
    "get",
    "get_by_provider",
    "had_trial",
    "latest",
    "list_subscriptions",
    "locked",
    "pause",
    "resume",
    "start",
    "start_trial",
    "sync_from_provider",
    "undo_cancel",
]


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change of plan or seats did: `credits` were given, or taken where negative; 0 where it is yet to come."""

    subscription: StoredSubscription
    before: StoredSubscription
    credits: int


async def start(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    plan_id: str,
    now: datetime,
    actor: str = "system",
    quantity: int = 1,
    resumes_period: bool = False,
) -> StoredSubscription:
    """An active subscription from `now` on, its credits granted.

    With `resumes_period`, for who subscribes by themself, a free plan goes on with the period of a free one that ended
    early: nobody has credits again by cancelling and starting over. Raises NotFound for an unknown user or plan,
    AlreadyExists while another subscription is current.
    """
    plan, zone = await _begun_by(connection, user_id, plan_id)
    under_way = await _free_period(connection, user_id, now) if resumes_period and plan.terms.price == 0 else None
    span = under_way or period(now, span_of(plan), zone=zone, number=0)
    begun = await add(
        connection, **_terms(user_id, plan, span, quantity=quantity), status=SubscriptionStatus.ACTIVE, provider=OURS
    )
    if under_way:
        await carry_on(connection, begun)
    else:
        await begin_period(connection, begun, plan=plan, actor=actor)
    return begun


async def start_trial(
    connection: AsyncConnection, user_id: UUID, *, plan_id: str, days: int, now: datetime, actor: str, quantity: int = 1
) -> StoredSubscription:
    """The account's one trial, with the credits of a period until its end; then the plan's first period begins.

    Raises AlreadyExists for a second one (`uq_subscriptions_trial`) and while another is current, NotFound.
    """
    plan, zone = await _begun_by(connection, user_id, plan_id)
    span = period(now, Span("day", days), zone=zone, number=0)
    trial = {"trial_start": span.start, "trial_end": span.end}
    begun = await add(
        connection,
        **_terms(user_id, plan, span, quantity=quantity),
        **trial,
        status=SubscriptionStatus.TRIALING,
        provider=OURS,
    )
    await begin_period(connection, begun, plan=plan, actor=actor)
    return begun


async def await_payment(
    connection: AsyncConnection, user_id: UUID, *, plan_id: str, provider: str, now: datetime, quantity: int = 1
) -> StoredSubscription:
    """An incomplete subscription, to become what the provider says of it; nothing is granted yet.

    The account may live on another one meanwhile. An incomplete one of the same plan and provider is given again.
    """
    plan, zone = await _begun_by(connection, user_id, plan_id)
    open_one = select(subscriptions.c.id).where(
        subscriptions.c.user_id == user_id,
        subscriptions.c.plan_id == plan_id,
        subscriptions.c.provider == provider,
        subscriptions.c.status == SubscriptionStatus.INCOMPLETE,
        subscriptions.c.provider_subscription_id.is_(None),
    )
    found: UUID | None = await connection.scalar(open_one.order_by(subscriptions.c.id.desc()).limit(1))
    terms = _terms(user_id, plan, period(now, span_of(plan), zone=zone, number=0), quantity=quantity)
    if found is not None:
        return await put(connection, found, **terms, created_at=now)
    return await add(connection, **terms, status=SubscriptionStatus.INCOMPLETE, provider=provider, created_at=now)


async def cancel(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, at_period_end: bool = True
) -> StoredSubscription:
    """Ends it with its period, or now. Credits already granted stay until they expire."""
    subscription = await locked(connection, subscription_id)
    event = Event.CANCEL_AT_PERIOD_END if at_period_end else Event.CANCEL_NOW
    nothing_next = {"next_plan_id": None, "next_quantity": None}
    changes = after(subscription, event)
    return await put(
        connection,
        subscription_id,
        **changes,
        **nothing_next,
        past_due_since=subscription.past_due_since if at_period_end else None,
        canceled_at=subscription.canceled_at if at_period_end and subscription.canceled_at else now,
    )


async def undo_cancel(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """It goes on after its period."""
    subscription = await locked(connection, subscription_id)
    return await put(connection, subscription_id, **after(subscription, Event.UNDO_CANCEL), canceled_at=None)


async def pause(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """Calls are refused and no period begins until it is resumed; the period under way runs on."""
    subscription = await locked(connection, subscription_id)
    return await put(connection, subscription_id, **after(subscription, Event.PAUSE))


async def resume(
    connection: AsyncConnection, subscription_id: UUID, *, now: datetime, actor: str
) -> StoredSubscription:
    """Goes on with the period it was paused in or, where that is over, with a new one from `now` on."""
    subscription = await locked(connection, subscription_id)
    changes = after(subscription, Event.RESUME)
    if now < subscription.current_period_end:
        return await put(connection, subscription_id, **changes)
    return await renew(connection, subscription, anchor=now, actor=actor, **changes)


async def change(
    connection: AsyncConnection,
    subscription_id: UUID,
    *,
    now: datetime,
    actor: str,
    plan_id: str | None = None,
    quantity: int | None = None,
    at_period_end: bool = False,
) -> Changed:
    """Another plan, another number of seats, or both; None keeps what there is. Raises NotFound for no such plan.

    Now: credits are given or taken in proportion to what is left of the period; a plan of another interval begins a
    period of its own, and what is left of the credits before goes. At the period's end: the next one begins with it.
    """
    before = await locked(connection, subscription_id)
    plan = await _existing_plan(connection, plan_id or before.plan_id)
    seats = before.quantity if quantity is None else quantity
    after(before, Event.CHANGE_PLAN if plan_id else Event.CHANGE_QUANTITY)
    if at_period_end:
        later = {"next_plan_id": plan.id, "next_quantity": seats}
        is_as_now = (plan.id, seats) == (before.plan_id, before.quantity)
        changed = await put(connection, subscription_id, **(dict.fromkeys(later) if is_as_now else later))
        return Changed(changed, before, 0)
    return await _change_now(connection, before, plan=plan, quantity=seats, now=now, actor=actor)


async def renew(
    connection: AsyncConnection,
    subscription: StoredSubscription,
    *,
    actor: str,
    span: Period | None = None,
    anchor: datetime | None = None,
    **changes: object,
) -> StoredSubscription:
    """The next period, `span` or the one from `anchor` on, with the plan and seats that were to come with it."""
    terms: dict[str, object] = {}
    if subscription.next_plan_id is not None and subscription.next_plan_id != subscription.plan_id:
        terms = _of_plan(await _existing_plan(connection, subscription.next_plan_id))
    terms |= {"quantity": subscription.next_quantity or subscription.quantity}
    terms |= {"next_plan_id": None, "next_quantity": None}
    turned = await put(connection, subscription.id, **terms, **changes)
    plan = await plan_of(connection, turned)
    if span is None:
        zone = await zone_of(connection, turned.user_id)
        span = period(anchor or turned.current_period_end, span_of(plan), zone=zone, number=0)
    turned = await put(connection, turned.id, **_of_period(span))
    await begin_period(connection, turned, plan=plan, actor=actor)
    return turned


def span_of(plan: StoredPlan) -> Span:
    return Span(plan.terms.billing_interval, plan.terms.billing_interval_count)


async def zone_of(connection: AsyncConnection, user_id: UUID) -> ZoneInfo:
    """UTC for a name that the time zone database does not have any more."""
    name: str | None = await connection.scalar(select(users.c.time_zone).where(users.c.id == user_id))
    try:
        return ZoneInfo(name or "UTC")
    except (LookupError, ValueError, OSError):
        return ZoneInfo("UTC")


async def _change_now(
    connection: AsyncConnection,
    before: StoredSubscription,
    *,
    plan: StoredPlan,
    quantity: int,
    now: datetime,
    actor: str,
) -> Changed:
    old = await plan_of(connection, before)
    left = share_left(before.current_period_start, before.current_period_end, now=now)
    terms: dict[str, object] = {"quantity": quantity, "next_plan_id": None, "next_quantity": None}
    if plan.id != before.plan_id:
        terms |= _of_plan(plan)
    changed = await put(connection, before.id, **terms)
    had = credits_of(old, before.quantity)
    is_same_period = span_of(old) == span_of(plan) or before.status is SubscriptionStatus.TRIALING
    if is_same_period:
        in_force = await plan_of(connection, changed)
        await issued_invoices.note_change(connection, before, old=old, new=in_force, quantity=quantity, at=now)
        moved = await prorate(connection, changed, plan=in_force, before=had, left=left, actor=actor)
        return Changed(changed, before, moved)
    await issued_invoices.note_change(connection, before, old=old, new=None, quantity=quantity, at=now)
    given_back = await prorate(connection, changed, plan=_without_credits(plan), before=had, left=left, actor=actor)
    begun = await renew(connection, changed, anchor=now, actor=actor)
    return Changed(begun, before, given_back + credits_of(plan, quantity))


def _without_credits(plan: StoredPlan) -> StoredPlan:
    return replace(plan, terms=replace(plan.terms, credits_per_period=0))


async def _begun_by(connection: AsyncConnection, user_id: UUID, plan_id: str) -> tuple[StoredPlan, ZoneInfo]:
    """The plan and the account's time zone, the account locked."""
    plan = await _existing_plan(connection, plan_id)
    if await bump_account(connection, user_id) is None:
        raise NotFound("user", user_id)
    return plan, await zone_of(connection, user_id)


async def _existing_plan(connection: AsyncConnection, plan_id: str) -> StoredPlan:
    plan = await plans.get(connection, plan_id)
    if plan is None:
        raise NotFound("plan", plan_id)
    return plan


async def _free_period(connection: AsyncConnection, user_id: UUID, now: datetime) -> Period | None:
    """Of a free subscription that has ended, where it would still run."""
    ended = (
        select(subscriptions.c.period_anchor, subscriptions.c.current_period_start, subscriptions.c.current_period_end)
        .join(subscription_plans, subscription_plans.c.id == subscriptions.c.plan_id)
        .where(
            subscriptions.c.user_id == user_id,
            subscriptions.c.status.in_((SubscriptionStatus.CANCELED, SubscriptionStatus.EXPIRED)),
            subscription_plans.c.price == 0,
            subscriptions.c.current_period_end > now,
        )
        .order_by(subscriptions.c.current_period_end.desc())
    )
    row = (await connection.execute(ended.limit(1))).one_or_none()
    return None if row is None else Period(*row)


def _terms(user_id: UUID, plan: StoredPlan, span: Period, *, quantity: int) -> dict[str, object]:
    return {"user_id": user_id, "quantity": quantity, **_of_plan(plan), **_of_period(span)}


def _of_plan(plan: StoredPlan) -> dict[str, object]:
    return {"plan_id": plan.id, "plan_version": plan.version, "keeps_version": False}


def _of_period(span: Period) -> dict[str, object]:
    return {"period_anchor": span.anchor, "current_period_start": span.start, "current_period_end": span.end}
