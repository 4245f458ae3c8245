"""Movements of credits, and the order in which charges burn down grants.

Each movement is one ledger row, one change of the balance row, and one outbox entry for Redis, under the row lock of
the balance. So `credit_seq` counts without gaps, in the order in which Redis must see the movements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.rows import Page, columns, page_by_number, value
from gateway.ledger.db.tables import credit_ledger, outbox, user_credits

# Grants burn down in this order, which `ix_credit_grants_open` serves. Of UUIDv7 ids the oldest is the smallest.
ORDER = "g.priority, g.expires_at NULLS LAST, g.id"


def burn_down_sql(charges: str) -> str:
    """The statement that takes charges from open grants; `charges` is a relation (user_id, credits).

    `upto` is the sum of the grants up to and including this one, so a grant covers what those before it do not. Charges
    beyond all grants are debt, which only the balance shows. The caller holds the row locks in `user_credits`.
    """
    return f"""
        WITH open AS (
             SELECT g.id, g.remaining, c.credits,
                    sum(g.remaining) OVER (PARTITION BY g.user_id ORDER BY {ORDER}) AS upto
               FROM credit_grants g JOIN {charges} c ON c.user_id = g.user_id
              WHERE g.remaining > 0 AND c.credits > 0)
        UPDATE credit_grants g
           SET remaining = g.remaining - least(open.remaining, open.credits - (open.upto - open.remaining)),
               updated_at = now()
          FROM open
         WHERE g.id = open.id AND open.upto - open.remaining < open.credits
    """  # noqa: S608 - both parts are constants


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


async def list_ledger(
    connection: AsyncConnection, user_id: UUID, *, cursor: str | None = None, limit: int = 50
) -> Page[LedgerEntry]:
    """The account's ledger, newest first."""
    query = select(*columns(credit_ledger, LedgerEntry)).where(credit_ledger.c.user_id == user_id)
    return await page_by_number(connection, query, LedgerEntry, cursor=cursor, limit=limit)


async def lock(connection: AsyncConnection, user_id: UUID) -> int:
    """Locks the account's balance row, as every movement does first; gives the balance. Raises NotFound."""
    query = select(user_credits.c.current_credits).where(user_credits.c.user_id == user_id).with_for_update()
    current: int | None = await connection.scalar(query)
    if current is None:
        raise NotFound("user", user_id)
    return current


async def burn_down(connection: AsyncConnection, user_id: UUID, *, credits: int) -> None:
    """Takes credits from open grants in their order, as far as they reach. `record_movement` changes the balance."""
    if credits > 0:
        await connection.execute(_BURN_DOWN, {"user_id": user_id, "credits": credits})


async def record_movement(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    kind: str,
    amount: int,
    reason: str,
    actor: str,
    grant_id: UUID | None = None,
    purchased: int = 0,
    expired: int = 0,
    details: Mapping[str, Any] | None = None,
) -> LedgerEntry:
    """Changes the balance row, the outbox and the ledger for a change of grants. The caller holds the lock."""
    change = {"user_id": user_id, "amount": amount, "purchased": purchased, "expired": expired}
    row = (await connection.execute(_CHANGE_BALANCE, change)).one()
    published = {"credit_seq": row.credit_seq, "amount": amount}
    await connection.execute(insert(outbox).values(kind="credits", user_id=user_id, payload=published))
    entry = {
        "user_id": user_id,
        "kind": kind,
        "amount": amount,
        "balance_after": row.current_credits,
        "grant_id": grant_id,
        "reason": reason,
        "actor": actor,
        "metadata": dict(details or {}),
    }
    async with checked(connection, "ledger entry"):
        inserted = insert(credit_ledger).values(entry).returning(*columns(credit_ledger, LedgerEntry))
        return value(LedgerEntry, (await connection.execute(inserted)).one())


_BURN_DOWN = text(burn_down_sql("(SELECT CAST(:user_id AS uuid) AS user_id, CAST(:credits AS bigint) AS credits)"))

_CHANGE_BALANCE = text("""
    UPDATE user_credits
       SET current_credits = current_credits + :amount, total_credits_purchased = total_credits_purchased + :purchased,
           total_credits_expired = total_credits_expired + :expired, credit_seq = credit_seq + 1, updated_at = now(),
           balance_alerted = balance_alerted AND current_credits + :amount < coalesce(alert_balance, 0)
     WHERE user_id = :user_id
    RETURNING current_credits, credit_seq
""")
