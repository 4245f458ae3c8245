"""Reads the books of accounts in PostgreSQL for reconciliation, and corrects them by new rows.

The balance row is the reference: clients have seen it, and Redis was loaded from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.audit import audit_log
from gateway.ledger.credits.movements import burn_down_sql
from gateway.ledger.db.tables import credit_grants, credit_ledger, user_credits
from policies.credits.allowances import PRIORITIES
from policies.usage.reconciliation import Book, Books, Difference, PostgresqlAccount, in_postgresql

REASON = "reconciliation"


async def list_account_ids(connection: AsyncConnection, *, after: UUID | None, limit: int) -> tuple[UUID, ...]:
    """The ids of accounts after `after`, in order."""
    query = select(user_credits.c.user_id).order_by(user_credits.c.user_id).limit(limit)
    if after is not None:
        query = query.where(user_credits.c.user_id > after)
    return tuple(await connection.scalars(query))


async def get_books(connection: AsyncConnection, user_ids: Sequence[UUID]) -> dict[UUID, Books]:
    """Each account's books, in one snapshot."""
    rows = await connection.execute(_BOOKS, {"user_ids": user_ids})
    return {row.user_id: Books(row.current_credits, int(row.booked), int(row.granted)) for row in rows}


async def get_balances(connection: AsyncConnection, user_ids: Sequence[UUID]) -> dict[UUID, PostgresqlAccount]:
    """The balances that Redis must agree with, with unpublished movements, in one snapshot."""
    rows = await connection.execute(_BALANCES, {"user_ids": user_ids})
    return {
        row.user_id: PostgresqlAccount(
            row.current_credits, row.credit_seq, dict(zip(row.sequences, row.amounts, strict=True))
        )
        for row in rows
    }


async def lock(connection: AsyncConnection, user_ids: Iterable[UUID]) -> None:
    """Locks the balance rows of these accounts."""
    query = select(user_credits.c.user_id).where(user_credits.c.user_id.in_(user_ids))
    await connection.execute(query.order_by(user_credits.c.user_id).with_for_update())


async def find_recorded(connection: AsyncConnection, calls: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
    """The calls, given as (request id, microseconds of admission), that are in `usage_tracking`.

    True for a call that is recorded as abandoned at no charge, which a late settlement may still correct.
    """
    parameters = {"request_ids": [call[0] for call in calls], "moments": [call[1] for call in calls]}
    rows = await connection.execute(_RECORDED, parameters)
    return {row.request_id: row.is_open for row in rows}


async def correct_books(connection: AsyncConnection, user_id: UUID, *, actor: str) -> tuple[Difference, ...]:
    """Makes the ledger and the grants agree with the balance row; gives the differences that it corrected.

    The ledger gets an adjustment that moves no balance. Missing grants are replaced by a new one; surplus is burned
    down. Does nothing if the books agree.
    """
    await lock(connection, (user_id,))
    found = await get_books(connection, (user_id,))
    differences = in_postgresql(found[user_id]) if user_id in found else ()
    for difference in differences:
        if difference.book is Book.LEDGER:
            await _record_adjustment(connection, user_id, difference, balance=found[user_id].balance, actor=actor)
        else:
            await _correct_grants(connection, user_id, missing=-difference.credits)
        await record_correction(connection, user_id, difference, actor=actor)
    return differences


async def record_correction(connection: AsyncConnection, user_id: UUID, difference: Difference, *, actor: str) -> None:
    """Records a correction in the audit log."""
    await audit_log.append(
        connection,
        actor=actor,
        action=f"reconcile.{difference.book}",
        entity="user",
        entity_id=user_id,
        before={"credits" if difference.credits else "changes": difference.found},
        after={"credits" if difference.credits else "changes": difference.expected},
        reason=REASON,
    )


# One statement each, hence one snapshot.
_BOOKS = text("""
    SELECT b.user_id, b.current_credits,
           (SELECT coalesce(sum(l.amount), 0) FROM credit_ledger l WHERE l.user_id = b.user_id) AS booked,
           (SELECT coalesce(sum(g.remaining), 0) FROM credit_grants g
             WHERE g.user_id = b.user_id AND g.remaining > 0) AS granted
      FROM user_credits b WHERE b.user_id = ANY (CAST(:user_ids AS uuid[]))
""")

_BALANCES = text("""
    SELECT b.user_id, b.current_credits, b.credit_seq, unpublished.sequences, unpublished.amounts
      FROM user_credits b CROSS JOIN LATERAL (
           SELECT coalesce(array_agg((o.payload ->> 'credit_seq')::bigint ORDER BY o.id), '{}') AS sequences,
                  coalesce(array_agg((o.payload ->> 'amount')::bigint ORDER BY o.id), '{}') AS amounts
             FROM outbox o WHERE o.user_id = b.user_id AND o.kind = 'credits') unpublished
     WHERE b.user_id = ANY (CAST(:user_ids AS uuid[]))
""")

_RECORDED = text("""
    SELECT u.request_id, u.outcome = 'abandoned' AND u.credits_charged = 0 AS is_open FROM usage_tracking u
      JOIN unnest(CAST(:request_ids AS uuid[]), CAST(:moments AS bigint[])) AS c (request_id, moment)
        ON u.request_id = c.request_id AND u.created_at = timestamptz 'epoch' + c.moment * interval '1 microsecond'
""")

_BURN_DOWN = text(burn_down_sql("(SELECT CAST(:user_id AS uuid) AS user_id, CAST(:credits AS bigint) AS credits)"))


async def _record_adjustment(
    connection: AsyncConnection, user_id: UUID, difference: Difference, *, balance: int, actor: str
) -> None:
    entry = {
        "user_id": user_id,
        "kind": "adjustment",
        "amount": -difference.credits,
        "balance_after": balance,
        "reason": REASON,
        "actor": actor,
        "metadata": {"moves_balance": False},
    }
    await connection.execute(insert(credit_ledger).values(entry))


async def _correct_grants(connection: AsyncConnection, user_id: UUID, *, missing: int) -> None:
    if missing < 0:
        await connection.execute(_BURN_DOWN, {"user_id": user_id, "credits": -missing})
        return
    grant = {
        "user_id": user_id,
        "source": "admin",
        "amount": missing,
        "remaining": missing,
        "priority": PRIORITIES["admin"],
        "effective_at": text("now()"),
        "reason": REASON,
    }
    await connection.execute(insert(credit_grants).values(grant))
