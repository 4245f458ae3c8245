"""Notifications of users: enqueued with the change they report, delivered later by `workers/notifications.py`.

A worker leases a delivery, sends it, and marks it. If the worker dies in between, the lease ends and another worker
sends it under the same id. The tables are called `notices` and `notice_deliveries`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import value
from gateway.ledger.db.tables import notice_deliveries, notices

MAIL, WEBHOOK = CHANNELS = ("mail", "webhook")
# In a payload: the address that a mail goes to instead of the user's.
RECIPIENT = "recipient"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification by one channel. `id` is the notification's, for all attempts. `attempts` counts this one."""

    id: UUID
    channel: str
    attempts: int
    kind: str
    payload: Mapping[str, Any]
    created_at: datetime
    user_id: UUID
    email: str
    name: str | None


async def enqueue(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    kind: str,
    payload: Mapping[str, Any],
    once: str | None = None,
    channels: tuple[str, ...] = (MAIL, WEBHOOK),
) -> bool:
    """Enqueues a notification on each channel. Gives False if the user has one of this `once` already.

    `kind` is dotted words such as `credits.threshold`; `payload` is JSON without secrets. A user gets one notification
    of each `once`, ever: `credits.80:2026-03-01` is sent once for the period that began then.
    """
    values = {"user_id": user_id, "kind": kind, "payload": dict(payload), "once": once}
    created = upsert(notices).values(values).on_conflict_do_nothing(constraint="uq_notices_user_id_once")
    notice_id = (await connection.execute(created.returning(notices.c.id))).scalar_one_or_none()
    if notice_id is None:
        return False
    deliveries = [{"notice_id": notice_id, "channel": channel} for channel in channels]
    await connection.execute(insert(notice_deliveries), deliveries)
    return True


# In the order they were enqueued, as far as deliveries succeed; a failed one waits for its own delay.
_LEASE = text("""
    WITH due AS (
         SELECT d.notice_id, d.channel FROM notice_deliveries d
          WHERE d.status = 'pending' AND d.due_at <= now() AND d.channel = ANY(:channels)
          ORDER BY d.due_at LIMIT :limit
            FOR UPDATE SKIP LOCKED),
     leased AS (
         UPDATE notice_deliveries d
            SET attempts = d.attempts + 1, due_at = now() + :lease_seconds * interval '1 second'
           FROM due WHERE d.notice_id = due.notice_id AND d.channel = due.channel
         RETURNING d.notice_id, d.channel, d.attempts)
    SELECT n.id, c.channel, c.attempts, n.kind, n.payload, n.created_at, n.user_id,
           coalesce(n.payload ->> 'recipient', u.email) AS email,
           CASE WHEN u.email_verified_at IS NOT NULL THEN u.name END AS name
      FROM leased c JOIN notices n ON n.id = c.notice_id JOIN users u ON u.id = n.user_id
     ORDER BY n.created_at, n.id
""")


async def lease(
    connection: AsyncConnection, *, channels: Collection[str] = CHANNELS, limit: int, lease_seconds: float
) -> tuple[Delivery, ...]:
    """Leases due deliveries by `channels` for `lease_seconds`; those not marked by then are due again."""
    values = {"channels": list(channels), "limit": limit, "lease_seconds": lease_seconds}
    rows = await connection.execute(_LEASE, values)
    return tuple(value(Delivery, row) for row in rows)


async def finish(connection: AsyncConnection, delivery: Delivery, *, status: str, error: str | None = None) -> None:
    """Marks it as `delivered`, `dropped` (the channel is not set up) or `failed` (no attempt is left)."""
    await _mark(connection, delivery, {"status": status, "ended_at": func.now(), "error": error})


async def reschedule(connection: AsyncConnection, delivery: Delivery, *, delay_seconds: float, error: str) -> None:
    """Makes it due again after a delay."""
    due_at = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, delay_seconds)
    await _mark(connection, delivery, {"due_at": due_at, "error": error})


async def delete_for_user(connection: AsyncConnection, user_id: UUID) -> None:
    """Deletes all notifications of a user, delivered and pending."""
    await connection.execute(notices.delete().where(notices.c.user_id == user_id))


async def delete_expired(connection: AsyncConnection, *, limit: int) -> int:
    """Deletes at most `limit` notifications older than 90 days; those with `once` stay. Gives how many."""
    return (await connection.execute(_DELETE_EXPIRED, {"limit": limit})).rowcount


_DELETE_EXPIRED = text("""
    DELETE FROM notices WHERE id IN (
        SELECT id FROM notices WHERE created_at < now() - interval '90 days' AND once IS NULL
         ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


async def _mark(connection: AsyncConnection, delivery: Delivery, marks: Mapping[str, Any]) -> None:
    """Marks only the leased attempt: after its lease ended, a later attempt owns the delivery."""
    of_it = (
        notice_deliveries.c.notice_id == delivery.id,
        notice_deliveries.c.channel == delivery.channel,
        notice_deliveries.c.attempts == delivery.attempts,
        notice_deliveries.c.status == "pending",
    )
    await connection.execute(update(notice_deliveries).where(*of_it).values(marks))
