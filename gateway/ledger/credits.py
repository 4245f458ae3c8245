"""Credits given and taken by hand; what usage takes is in `usage.py`.

Each movement is one ledger row, one change of the balance row, and one outbox entry for the hot copy, under the row
lock of the balance: so `credit_seq` counts without gaps, in the order in which Redis must see the movements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.burning import burn
from gateway.ledger.errors import NotFound, checked
from gateway.ledger.rows import Page, columns, page_by_number, value
from gateway.ledger.tables import credit_grants, credit_ledger, outbox, user_credits

# What ends with the period burns before what was paid for.
PRIORITIES = {"plan": 10, "trial": 10, "promo": 20, "admin": 30, "purchase": 50}


@dataclass(frozen=True, slots=True)
class Balance:
    user_id: UUID
    current_credits: int
    total_credits_purchased: int
    total_credits_used: int
    total_credits_expired: int
    credits_used_this_period: int
    credit_seq: int
    period_start: datetime | None
    period_end: datetime | None
    last_credit_refill: datetime | None
    next_credit_refill: datetime | None
    subscription_id: UUID | None


@dataclass(frozen=True, slots=True)
class Grant:
    id: UUID
    user_id: UUID
    source: str
    amount: int
    remaining: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    id: int
    user_id: UUID
    kind: str
    amount: int
    balance_after: int
    grant_id: UUID | None
    reason: str | None
    actor: str
    metadata: Mapping[str, Any]
    created_at: datetime


async def grant(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    amount: int,
    source: str,
    reason: str,
    actor: str,
    effective_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
) -> LedgerEntry:
    """Gives credits; they settle the account's debt first. Raises NotFound, InvalidValue.

    They can be spent at once: `effective_at` (now, by default) says when their time began, for a period under way.
    """
    span = {} if effective_at is None else {"effective_at": effective_at}
    ranked = {"priority": PRIORITIES.get(source, 0) if priority is None else priority, "expires_at": expires_at}
    grant_id = await _open_grant(connection, user_id, amount=amount, source=source, reason=reason, **span, **ranked)
    return await _move(
        connection,
        user_id,
        kind="grant",
        amount=amount,
        grant_id=grant_id,
        purchased=amount if source == "purchase" else 0,
        reason=reason,
        actor=actor,
    )


async def adjust(connection: AsyncConnection, user_id: UUID, *, amount: int, reason: str, actor: str) -> LedgerEntry:
    """Corrects the balance by a signed amount; it may go below zero. Raises NotFound, and InvalidValue for 0."""
    grant_id = None
    if amount > 0:
        priority = PRIORITIES["admin"]
        grant_id = await _open_grant(
            connection, user_id, amount=amount, source="admin", reason=reason, priority=priority
        )
    else:
        await _lock(connection, user_id)
        await connection.execute(_BURN_ONE, {"user_id": user_id, "credits": -amount})
    return await _move(
        connection, user_id, kind="adjustment", amount=amount, grant_id=grant_id, reason=reason, actor=actor
    )


async def balance(connection: AsyncConnection, user_id: UUID) -> Balance | None:
    query = select(*columns(user_credits, Balance)).where(user_credits.c.user_id == user_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(Balance, row)


async def open_grants(connection: AsyncConnection, user_id: UUID) -> tuple[Grant, ...]:
    """What is left of the user's grants, in the order it will burn."""
    query = (
        select(*columns(credit_grants, Grant))
        .where(credit_grants.c.user_id == user_id, credit_grants.c.remaining > 0)
        .order_by(credit_grants.c.priority, credit_grants.c.expires_at.nulls_last(), credit_grants.c.id)
    )
    return tuple(value(Grant, row) for row in await connection.execute(query))


async def ledger(
    connection: AsyncConnection, user_id: UUID, *, cursor: str | None = None, limit: int = 50
) -> Page[LedgerEntry]:
    """The account's book, newest first."""
    query = select(*columns(credit_ledger, LedgerEntry)).where(credit_ledger.c.user_id == user_id)
    return await page_by_number(connection, query, LedgerEntry, cursor=cursor, limit=limit)


_BURN_ONE = text(burn("(SELECT CAST(:user_id AS uuid) AS user_id, CAST(:credits AS bigint) AS credits)"))

_MOVE = text("""
    UPDATE user_credits
       SET current_credits = current_credits + :amount, total_credits_purchased = total_credits_purchased + :purchased,
           credit_seq = credit_seq + 1, updated_at = now()
     WHERE user_id = :user_id
    RETURNING current_credits, credit_seq
""")


async def _lock(connection: AsyncConnection, user_id: UUID) -> int:
    """Takes the account's row lock; gives the balance. Every movement begins here."""
    query = select(user_credits.c.current_credits).where(user_credits.c.user_id == user_id).with_for_update()
    current: int | None = await connection.scalar(query)
    if current is None:
        raise NotFound("user", user_id)
    return current


async def _open_grant(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    amount: int,
    **terms: Any,
) -> UUID:
    debt = max(0, -await _lock(connection, user_id))
    given = {
        "user_id": user_id,
        "amount": amount,
        "remaining": max(0, amount - debt),
        "effective_at": func.now(),
        **terms,
    }
    async with checked(connection, "grant"):
        made = insert(credit_grants).values(given).returning(credit_grants.c.id)
        grant_id: UUID = (await connection.execute(made)).scalar_one()
    return grant_id


async def _move(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    kind: str,
    amount: int,
    reason: str,
    actor: str,
    grant_id: UUID | None = None,
    purchased: int = 0,
) -> LedgerEntry:
    moved = await connection.execute(_MOVE, {"user_id": user_id, "amount": amount, "purchased": purchased})
    row = moved.one()
    push = {"credit_seq": row.credit_seq, "amount": amount}
    await connection.execute(insert(outbox).values(kind="credits", user_id=user_id, payload=push))
    entry = {
        "user_id": user_id,
        "kind": kind,
        "amount": amount,
        "balance_after": row.current_credits,
        "grant_id": grant_id,
        "reason": reason,
        "actor": actor,
    }
    async with checked(connection, "ledger entry"):
        written = insert(credit_ledger).values(entry).returning(*columns(credit_ledger, LedgerEntry))
        return value(LedgerEntry, (await connection.execute(written)).one())
