"""Starts scheduled grants, and expires what remains of grants at their end.

The credits of a period that a provider bills outlast its end until the next period is known: the provider tells of it
later, and calls would be refused meanwhile. The grace of past-due subscriptions bounds the wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits.grants import Grant, start_scheduled
from gateway.ledger.credits.movements import lock, record_movement
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import credit_grants, user_credits

ACTOR = "worker:credits"


async def list_due_accounts(
    connection: AsyncConnection, *, now: datetime, grace: timedelta, limit: int, exclude: Sequence[UUID] = ()
) -> tuple[UUID, ...]:
    """Accounts with a grant that is due to start or expire, without `exclude`; the longest due first."""
    times = {"now": now, "graced": now - grace}
    return tuple(await connection.scalars(_DUE, {**times, "limit": limit, "exclude": list(exclude)}))


async def try_lock(connection: AsyncConnection, user_id: UUID) -> bool:
    """Locks the account's balance row; False if another transaction has it."""
    query = select(user_credits.c.user_id).where(user_credits.c.user_id == user_id)
    return (await connection.scalar(query.with_for_update(skip_locked=True))) is not None


async def apply_due(
    connection: AsyncConnection, user_id: UUID, *, now: datetime, grace: timedelta, actor: str = ACTOR
) -> int:
    """Starts and expires the account's due grants; gives how many movements it recorded. Idempotent.

    Starts come first, so that a grant whose whole time has passed has both entries in the ledger. `grace` is how long
    a grant waits for the next period of a subscription that a provider bills. Raises NotFound.
    """
    await lock(connection, user_id)
    scheduled = await _grants(connection, user_id, credit_grants.c.is_scheduled & (credit_grants.c.effective_at <= now))
    for grant in scheduled:
        await start_scheduled(connection, user_id, grant, actor=actor)
    has_ended = (credit_grants.c.remaining > 0) & (credit_grants.c.expires_at <= now)
    expired = await _grants(connection, user_id, has_ended & _IS_DUE.bindparams(graced=now - grace))
    for grant in expired:
        await connection.execute(update(credit_grants).where(credit_grants.c.id == grant.id).values(remaining=0))
        await record_movement(
            connection,
            user_id,
            kind="expiry",
            amount=-grant.remaining,
            grant_id=grant.id,
            expired=grant.remaining,
            reason=f"expired: {grant.reason}",
            actor=actor,
        )
    return len(scheduled) + len(expired)


async def wait_no_longer(connection: AsyncConnection, subscription_id: UUID, *, now: datetime) -> None:
    """The period after those that have ended by `now` is known to be unpaid: their grants end."""
    its = (credit_grants.c.subscription_id == subscription_id) & (credit_grants.c.expires_at <= now)
    unpaid = credit_grants.c.metadata.concat(literal({_UNPAID: True}, JSONB))
    await connection.execute(update(credit_grants).where(its, credit_grants.c.remaining > 0).values(metadata=unpaid))


_UNPAID = "next_period_unpaid"
# Not while a provider is to tell of the next period: the stored one is that of the grant.
_IS_DUE = text(f"""
    (expires_at <= :graced OR metadata ? '{_UNPAID}' OR NOT EXISTS (
       SELECT 1 FROM subscriptions s
        WHERE s.id = credit_grants.subscription_id AND s.provider <> 'manual' AND s.status IN ('trialing', 'active')
          AND NOT s.cancel_at_period_end AND s.current_period_end <= credit_grants.expires_at))
""")  # noqa: S608 - made of constants

_DUE = text(f"""
    SELECT user_id FROM (
        (SELECT user_id, expires_at AS due_at FROM credit_grants
          WHERE remaining > 0 AND expires_at IS NOT NULL AND expires_at <= :now AND {_IS_DUE}
            AND user_id <> ALL(CAST(:exclude AS uuid[])) ORDER BY expires_at LIMIT :limit)
        UNION ALL
        (SELECT user_id, effective_at FROM credit_grants
          WHERE is_scheduled AND effective_at <= :now
            AND user_id <> ALL(CAST(:exclude AS uuid[])) ORDER BY effective_at LIMIT :limit)) due
     GROUP BY user_id ORDER BY min(due_at), user_id
""")  # noqa: S608 - made of constants


async def _grants(connection: AsyncConnection, user_id: UUID, which: ColumnElement[bool]) -> tuple[Grant, ...]:
    query = select(*columns(credit_grants, Grant)).where(credit_grants.c.user_id == user_id, which)
    rows = await connection.execute(query.order_by(credit_grants.c.effective_at, credit_grants.c.id))
    return tuple(value(Grant, row) for row in rows)
