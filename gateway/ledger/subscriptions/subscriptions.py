"""Rows of subscriptions: reads, locks, and updates by legal events (`policies.billing.subscriptions`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, insert, literal_column, select
from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.db.rows import Page, page_by_time, value
from gateway.ledger.db.tables import subscription_plans, subscriptions
from gateway.ledger.db.tables.subscriptions import CURRENT_STATUSES, PAUSED_HERE, PAYMENTS_PAUSED, WAS_BEGUN
from policies.billing.news import CHANGED, MAILED, SubscriptionFacts, news
from policies.billing.subscriptions import IllegalEvent, State, SubscriptionEvent
from policies.billing.subscriptions import transition as next_state
from policies.model import SubscriptionStatus

MANUAL = "manual"  # the provider of subscriptions that the gateway itself renews


class IllegalTransition(Exception):  # noqa: N818 - a response (409), not a fault
    """The event is illegal in the subscription's state; the message and `illegal` name the legal requests."""

    def __init__(self, illegal: IllegalEvent) -> None:
        super().__init__(str(illegal))
        self.illegal = illegal


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """`plan_version` is the version that the subscription is on: its plan's, unless it is pinned (`keeps_version`).

    `next_plan_id` and `next_quantity` apply with the next period; None without a scheduled change. `superseded_by` is
    the subscription that took its place while a provider billed both. `paused_here`: an operator paused it, which its
    provider need not know; `payments_paused`: the provider charges nothing meanwhile.
    """

    id: UUID
    user_id: UUID
    plan_id: str
    plan_version: int
    keeps_version: bool
    status: SubscriptionStatus
    quantity: int
    provider: str
    provider_subscription_id: str | None
    current_period_start: datetime
    current_period_end: datetime
    period_anchor: datetime
    cancel_at_period_end: bool
    canceled_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    past_due_since: datetime | None
    superseded_by: str | None
    paused_here: bool
    payments_paused: bool
    next_plan_id: str | None
    next_quantity: int | None
    credits_withheld: str | None
    provider_synced_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def state(self) -> State:
        return State(self.status, self.cancel_at_period_end)

    @property
    def facts(self) -> SubscriptionFacts:
        return SubscriptionFacts(
            self.status,
            self.plan_id,
            self.quantity,
            self.current_period_start,
            self.current_period_end,
            self.cancel_at_period_end,
        )


_OF_PLAN = (
    select(subscription_plans.c.version)
    .where(subscription_plans.c.id == subscriptions.c.plan_id)
    .correlate_except(subscription_plans)
    .scalar_subquery()
)
_IN_FORCE = case((subscriptions.c.keeps_version, subscriptions.c.plan_version), else_=_OF_PLAN).label("plan_version")
_SUPERSEDED_BY = subscriptions.c.metadata["superseded_by"].astext.label("superseded_by")
_MARKS = {name: subscriptions.c.metadata.has_key(name).label(name) for name in (PAUSED_HERE, PAYMENTS_PAUSED)}
_MADE = {"plan_version": _IN_FORCE, "superseded_by": _SUPERSEDED_BY, **_MARKS}
_COLUMNS = [
    _MADE[each.name] if each.name in _MADE else subscriptions.c[each.name] for each in fields(StoredSubscription)
]


async def get(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription | None:
    row = (await connection.execute(select(*_COLUMNS).where(subscriptions.c.id == subscription_id))).one_or_none()
    return None if row is None else value(StoredSubscription, row)


async def get_by_provider(
    connection: AsyncConnection, provider: str, provider_subscription_id: str
) -> StoredSubscription | None:
    is_it = (subscriptions.c.provider == provider) & (
        subscriptions.c.provider_subscription_id == provider_subscription_id
    )
    row = (await connection.execute(select(*_COLUMNS).where(is_it))).one_or_none()
    return None if row is None else value(StoredSubscription, row)


async def get_current(connection: AsyncConnection, user_id: UUID) -> StoredSubscription | None:
    """The account's current subscription, or None."""
    query = select(*_COLUMNS).where(subscriptions.c.user_id == user_id, subscriptions.c.status.in_(CURRENT_STATUSES))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(StoredSubscription, row)


async def get_latest(connection: AsyncConnection, user_id: UUID) -> StoredSubscription | None:
    """The current subscription, or else the newest that was ever paid for, or else the newest."""
    is_current = subscriptions.c.status.in_(CURRENT_STATUSES)
    was_begun: ColumnElement[bool] = literal_column(WAS_BEGUN)
    newest = (is_current.desc(), was_begun.desc(), subscriptions.c.created_at.desc(), subscriptions.c.id.desc())
    query = select(*_COLUMNS).where(subscriptions.c.user_id == user_id).order_by(*newest).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(StoredSubscription, row)


async def list_subscriptions(
    connection: AsyncConnection,
    *,
    user_id: UUID | None = None,
    plan_id: str | None = None,
    status: SubscriptionStatus | None = None,
    superseded: bool | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StoredSubscription]:
    query = select(*_COLUMNS)
    if superseded is not None:
        query = query.where(subscriptions.c.metadata.has_key("superseded_by") == superseded)
    for column, required in (("user_id", user_id), ("plan_id", plan_id), ("status", status)):
        if required is not None:
            query = query.where(subscriptions.c[column] == required)
    return await page_by_time(connection, query, StoredSubscription, cursor=cursor, limit=limit)


async def get_for_update(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """The subscription, its account locked by the bump of its version. Raises NotFound."""
    found = await get(connection, subscription_id)
    if found is None:
        raise NotFound("subscription", subscription_id)
    await bump_account(connection, found.user_id)
    return await get_existing(connection, subscription_id)


async def get_existing(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    row = (await connection.execute(select(*_COLUMNS).where(subscriptions.c.id == subscription_id))).one()
    return value(StoredSubscription, row)


async def create(connection: AsyncConnection, **values: Any) -> StoredSubscription:
    """Raises AlreadyExists if another subscription is current (`uq_subscriptions_current`) or the account has had its
    trial (`uq_subscriptions_trial`)."""
    async with checked(connection, "subscription"):
        result = await connection.execute(insert(subscriptions).values(values).returning(subscriptions.c.id))
    created = await get_existing(connection, result.scalar_one())
    await _announce(connection, None, created)
    return created


async def update(connection: AsyncConnection, subscription_id: UUID, **changes: Any) -> StoredSubscription:
    """The caller holds the lock of `get_for_update`. Raises AlreadyExists, as `create` does.

    Enqueues what is worth telling with the change.
    """
    before = await get_existing(connection, subscription_id)
    async with checked(connection, "subscription"):
        await connection.execute(
            update_rows(subscriptions).where(subscriptions.c.id == subscription_id).values(changes)
        )
    after = await get_existing(connection, subscription_id)
    await _announce(connection, before, after)
    return after


async def announce(
    connection: AsyncConnection, subscription: StoredSubscription, kind: str, *, once: str | None = None, **more: Any
) -> None:
    """Enqueues a notification about the subscription."""
    name = select(subscription_plans.c.name).where(subscription_plans.c.id == subscription.plan_id)
    payload = {
        "subscription_id": str(subscription.id),
        "plan_id": subscription.plan_id,
        "plan": await connection.scalar(name),
        "status": str(subscription.status),
        "quantity": subscription.quantity,
        "current_period_start": subscription.current_period_start.isoformat(),
        "current_period_end": subscription.current_period_end.isoformat(),
        "cancel_at_period_end": subscription.cancel_at_period_end,
        **more,
    }
    channels = (notifications.MAIL, notifications.WEBHOOK) if kind in MAILED else (notifications.WEBHOOK,)
    await notifications.enqueue(
        connection, subscription.user_id, kind=kind, payload=payload, once=once, channels=channels
    )


async def _announce(connection: AsyncConnection, before: StoredSubscription | None, after: StoredSubscription) -> None:
    for kind in news(None if before is None else before.facts, after.facts):
        more = {"previous_plan_id": before.plan_id} if before is not None and kind == CHANGED else {}
        await announce(connection, after, kind, **more)


def transition(subscription: StoredSubscription, event: SubscriptionEvent) -> dict[str, Any]:
    """The columns that the event changes, for `update`. Raises IllegalTransition."""
    state = next_state(subscription.state, event)
    if isinstance(state, IllegalEvent):
        raise IllegalTransition(state)
    return state_columns(state)


def state_columns(state: State) -> dict[str, Any]:
    return {"status": state.status, "cancel_at_period_end": state.is_ending}
