"""The inbox of what providers tell: stored once however often it comes, acted on after that, in one hand at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import webhook_events
from policies.billing.payments import retry_after

# Longer than a provider may take to answer all that one event asks: the hand that had it is dead.
CLAIM = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """`attempts` counts those begun; `next_attempt_at` None: none is due."""

    id: UUID
    provider: str
    provider_event_id: str
    event_type: str
    status: str
    payload: Mapping[str, Any]
    attempts: int
    error_message: str | None
    occurred_at: datetime | None
    next_attempt_at: datetime | None
    processed_at: datetime | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = columns(webhook_events, WebhookEvent)
_WAITING = webhook_events.c.status.in_(("received", "failed"))


async def receive(
    connection: AsyncConnection,
    provider: str,
    *,
    provider_event_id: str,
    event_type: str,
    payload: Mapping[str, Any],
    occurred_at: datetime | None,
    foreign: str | None = None,
) -> UUID | None:
    """Stores an event, due at once; None for one that is here already. One that is `foreign` is kept, not acted on."""
    given = {
        "provider": provider,
        "provider_event_id": provider_event_id,
        "event_type": event_type,
        "payload": dict(payload),
        "occurred_at": occurred_at,
        "status": "received" if foreign is None else "ignored",
        "error_message": foreign,
        "next_attempt_at": func.now() if foreign is None else null(),
    }
    stored = insert(webhook_events).values(given).on_conflict_do_nothing().returning(webhook_events.c.id)
    event_id: UUID | None = await connection.scalar(stored)
    return event_id


async def claim(connection: AsyncConnection, *, event_id: UUID | None = None) -> WebhookEvent | None:
    """The event that has been due for longest, or the given one if it is due; ours until CLAIM has passed."""
    due = select(webhook_events.c.id).where(_WAITING, webhook_events.c.next_attempt_at <= func.now())
    if event_id is not None:
        due = due.where(webhook_events.c.id == event_id)
    due = due.order_by(webhook_events.c.next_attempt_at).limit(1).with_for_update(skip_locked=True)
    taken = (
        update(webhook_events)
        .where(webhook_events.c.id.in_(due.scalar_subquery()))
        .values(attempts=webhook_events.c.attempts + 1, next_attempt_at=func.now() + CLAIM)
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(taken)).one_or_none()
    return None if row is None else value(WebhookEvent, row)


async def done(connection: AsyncConnection, event_id: UUID, *, ignored: str | None = None) -> None:
    """Belongs into the transaction of the effects, so that neither stands without the other."""
    ended = {
        "status": "processed" if ignored is None else "ignored",
        "error_message": ignored,
        "next_attempt_at": null(),
        "processed_at": func.now(),
    }
    await connection.execute(update(webhook_events).where(webhook_events.c.id == event_id).values(ended))


async def failed(connection: AsyncConnection, event: WebhookEvent, *, reason: str) -> None:
    """Due again later, unless it has been tried often enough or another hand has done it meanwhile."""
    pause = retry_after(event.attempts)
    ended = {
        "status": "failed",
        "error_message": reason,
        "next_attempt_at": null() if pause is None else func.now() + pause,
    }
    await connection.execute(update(webhook_events).where(webhook_events.c.id == event.id, _WAITING).values(ended))


async def replay(connection: AsyncConnection, event_id: UUID) -> WebhookEvent:
    """Due at once, as if it had just come. Raises NotFound."""
    again = {"status": "received", "attempts": 0, "next_attempt_at": func.now(), "error_message": null()}
    row = (
        await connection.execute(
            update(webhook_events).where(webhook_events.c.id == event_id).values(again).returning(*_COLUMNS)
        )
    ).one_or_none()
    if row is None:
        raise NotFound("webhook event", event_id)
    return value(WebhookEvent, row)


async def get(connection: AsyncConnection, event_id: UUID) -> WebhookEvent | None:
    row = (await connection.execute(select(*_COLUMNS).where(webhook_events.c.id == event_id))).one_or_none()
    return None if row is None else value(WebhookEvent, row)


async def list_events(
    connection: AsyncConnection,
    *,
    provider: str | None = None,
    status: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[WebhookEvent]:
    query = select(*_COLUMNS)
    if provider is not None:
        query = query.where(webhook_events.c.provider == provider)
    if status is not None:
        query = query.where(webhook_events.c.status == status)
    return await page_by_time(connection, query, WebhookEvent, cursor=cursor, limit=limit)


async def counts(connection: AsyncConnection) -> dict[str, int]:
    """How many events wait and how many are given up, for whoever watches."""
    waiting = func.count(case((webhook_events.c.next_attempt_at.is_not(None), 1)))
    given_up = func.count(case((webhook_events.c.next_attempt_at.is_(None), 1)))
    row = (await connection.execute(select(waiting, given_up).where(_WAITING))).one()
    return {"waiting": row[0], "given_up": row[1]}
