"""What someone is to be told: noted in the transaction of what happened, delivered later by `workers/notifications.py`.

A delivery is claimed for a while, made, and marked: who dies in between leaves it to be made again, under the same id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import value
from gateway.ledger.db.tables import notice_deliveries, notices

MAIL, WEBHOOK = "mail", "webhook"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notice to be told by one channel. `id` is the notice's: the same at every attempt. `attempts` counts this."""

    id: UUID
    channel: str
    attempts: int
    kind: str
    payload: Mapping[str, Any]
    created_at: datetime
    user_id: UUID
    email: str
    name: str | None


async def post(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    kind: str,
    payload: Mapping[str, Any],
    once: str | None = None,
    channels: tuple[str, ...] = (MAIL, WEBHOOK),
) -> bool:
    """Notes for delivery what happened to a user; says whether it is new.

    `kind` is dotted words such as `credits.threshold`; `payload` is what JSON can hold, without secrets. A user has one
    notice of each `once`, for ever: `credits.80:2026-03-01` is told once for the period that began then.
    """
    given = {"user_id": user_id, "kind": kind, "payload": dict(payload), "once": once}
    made = upsert(notices).values(given).on_conflict_do_nothing(constraint="uq_notices_user_id_once")
    notice_id = (await connection.execute(made.returning(notices.c.id))).scalar_one_or_none()
    if notice_id is None:
        return False
    told = [{"notice_id": notice_id, "channel": channel} for channel in channels]
    await connection.execute(insert(notice_deliveries), told)
    return True


# Of one user first things first, as far as they succeed; a failed one waits for its next turn alone.
_CLAIM = text("""
    WITH due AS (
         SELECT d.notice_id, d.channel FROM notice_deliveries d
          WHERE d.status = 'pending' AND d.due_at <= now()
          ORDER BY d.due_at LIMIT :limit
            FOR UPDATE SKIP LOCKED),
     claimed AS (
         UPDATE notice_deliveries d
            SET attempts = d.attempts + 1, due_at = now() + :lease_seconds * interval '1 second'
           FROM due WHERE d.notice_id = due.notice_id AND d.channel = due.channel
         RETURNING d.notice_id, d.channel, d.attempts)
    SELECT n.id, c.channel, c.attempts, n.kind, n.payload, n.created_at, n.user_id, u.email, u.name
      FROM claimed c JOIN notices n ON n.id = c.notice_id JOIN users u ON u.id = n.user_id
     ORDER BY n.created_at, n.id
""")


async def claim(connection: AsyncConnection, *, limit: int, lease_seconds: float) -> tuple[Delivery, ...]:
    """What is due, ours for `lease_seconds`; what is not marked until then is due again."""
    rows = await connection.execute(_CLAIM, {"limit": limit, "lease_seconds": lease_seconds})
    return tuple(value(Delivery, row) for row in rows)


async def end(connection: AsyncConnection, delivery: Delivery, *, status: str, error: str | None = None) -> None:
    """Marks it as `delivered`, `dropped` (nobody to tell) or `failed` (for good)."""
    await _mark(connection, delivery, {"status": status, "ended_at": func.now(), "error": error})


async def put_off(connection: AsyncConnection, delivery: Delivery, *, delay_seconds: float, error: str) -> None:
    """Due again after a delay."""
    due_at = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, delay_seconds)
    await _mark(connection, delivery, {"due_at": due_at, "error": error})


async def erase(connection: AsyncConnection, user_id: UUID) -> None:
    """Forgets what the user was told and was still to be told; for erasing an account."""
    await connection.execute(notices.delete().where(notices.c.user_id == user_id))


async def tidy(connection: AsyncConnection, *, limit: int) -> int:
    """Forgets notices of long ago, at most `limit`; says how many. Those that are noted once are kept."""
    return (await connection.execute(_TIDY, {"limit": limit})).rowcount


_TIDY = text("""
    DELETE FROM notices WHERE id IN (
        SELECT id FROM notices WHERE created_at < now() - interval '90 days' AND once IS NULL
         ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


async def _mark(connection: AsyncConnection, delivery: Delivery, marks: Mapping[str, Any]) -> None:
    """Of the attempt that was claimed: one that took too long and was claimed again is the other's to mark."""
    of_it = (
        notice_deliveries.c.notice_id == delivery.id,
        notice_deliveries.c.channel == delivery.channel,
        notice_deliveries.c.attempts == delivery.attempts,
        notice_deliveries.c.status == "pending",
    )
    await connection.execute(update(notice_deliveries).where(*of_it).values(marks))
