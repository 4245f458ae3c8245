"""The inbox of provider events: each is stored once, however often it arrives, processed by one worker at a time."""

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
from policies.billing.provider_payloads import without_persons

# Longer than all requests for one event may take: the worker that leased it is dead.
LEASE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """`attempts` counts those started; `next_attempt_at` None: no further one."""

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
_IS_PENDING = webhook_events.c.status.in_(("received", "failed"))


async def record(
    connection: AsyncConnection,
    provider: str,
    *,
    provider_event_id: str,
    event_type: str,
    payload: Mapping[str, Any],
    occurred_at: datetime | None,
    unrelated_reason: str | None = None,
) -> UUID | None:
    """Stores an event without personal data, due at once, and returns its id; None for a duplicate.

    An event with an `unrelated_reason` is stored as ignored.
    """
    row = {
        "provider": provider,
        "provider_event_id": provider_event_id,
        "event_type": event_type,
        "payload": without_persons(payload),
        "occurred_at": occurred_at,
        "status": "received" if unrelated_reason is None else "ignored",
        "error_message": unrelated_reason,
        "next_attempt_at": func.now() if unrelated_reason is None else null(),
    }
    stored = insert(webhook_events).values(row).on_conflict_do_nothing().returning(webhook_events.c.id)
    event_id: UUID | None = await connection.scalar(stored)
    return event_id


async def lease(connection: AsyncConnection, *, event_id: UUID | None = None) -> WebhookEvent | None:
    """Leases the event that has been due for longest, or the given one if it is due, to the caller for LEASE."""
    due = select(webhook_events.c.id).where(_IS_PENDING, webhook_events.c.next_attempt_at <= func.now())
    if event_id is not None:
        due = due.where(webhook_events.c.id == event_id)
    due = due.order_by(webhook_events.c.next_attempt_at).limit(1).with_for_update(skip_locked=True)
    leased = (
        update(webhook_events)
        .where(webhook_events.c.id.in_(due.scalar_subquery()))
        .values(attempts=webhook_events.c.attempts + 1, next_attempt_at=func.now() + LEASE)
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(leased)).one_or_none()
    return None if row is None else value(WebhookEvent, row)


async def complete(connection: AsyncConnection, event_id: UUID, *, ignored: str | None = None) -> None:
    """Call it in the transaction of the effects, so that both commit or neither. `ignored` says why there are none."""
    outcome = {
        "status": "processed" if ignored is None else "ignored",
        "error_message": ignored,
        "next_attempt_at": null(),
        "processed_at": func.now(),
    }
    await connection.execute(update(webhook_events).where(webhook_events.c.id == event_id).values(outcome))


async def fail(connection: AsyncConnection, event: WebhookEvent, *, reason: str) -> None:
    """Schedules the next attempt, or none after the last; an event that another worker completed stays completed."""
    delay = retry_after(event.attempts)
    outcome = {
        "status": "failed",
        "error_message": reason,
        "next_attempt_at": null() if delay is None else func.now() + delay,
    }
    await connection.execute(update(webhook_events).where(webhook_events.c.id == event.id, _IS_PENDING).values(outcome))


async def requeue(connection: AsyncConnection, event_id: UUID) -> WebhookEvent:
    """Makes the event due at once, with all its attempts. Raises NotFound."""
    reset = {"status": "received", "attempts": 0, "next_attempt_at": func.now(), "error_message": null()}
    row = (
        await connection.execute(
            update(webhook_events).where(webhook_events.c.id == event_id).values(reset).returning(*_COLUMNS)
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
    """How many events are waiting, and how many have no attempt left."""
    waiting = func.count(case((webhook_events.c.next_attempt_at.is_not(None), 1)))
    given_up = func.count(case((webhook_events.c.next_attempt_at.is_(None), 1)))
    row = (await connection.execute(select(waiting, given_up).where(_IS_PENDING))).one()
    return {"waiting": row[0], "given_up": row[1]}
