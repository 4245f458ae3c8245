"""The persons behind accounts: remembered by digest, and their debts, which follow them to a later account.

`policies.access.persons` makes the digests. An erased account keeps its own for a time, so that to delete an account
and to open another one gives nothing that the first had already.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.credits import grants
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.subscriptions import allowances, free_credits, subscriptions
from gateway.ledger.subscriptions.allowances import plan_of, take_over_period


async def remember(connection: AsyncConnection, user_id: UUID, person: bytes, *, is_proven: bool) -> None:
    """Adds a digest to the account's; `is_proven`: the account has shown that it reads mail there."""
    await connection.execute(_REMEMBER, {"user_id": user_id, "person": person})
    if is_proven:
        await connection.execute(_REMEMBER_PROOF, {"user_id": user_id, "person": person})


async def remember_only_proof(connection: AsyncConnection, user_id: UUID) -> None:
    """Takes the account's mailbox for proven, on an operator's word; which one is meant is known where it has one."""
    await connection.execute(_REMEMBER_ONLY_PROOF, {"user_id": user_id})


async def forget_erased(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Removes the digests of at most `limit` accounts that were erased before; gives of how many."""
    return (await connection.execute(_FORGET, {"before": before, "limit": limit})).rowcount


async def recognise(connection: AsyncConnection, user_id: UUID, *, now: datetime, actor: str) -> None:
    """What follows from a proven address: debts of erased accounts return, a free plan gives its credits."""
    await bump_account(connection, user_id)
    await take_over_debt(connection, user_id, actor=actor)
    current = await subscriptions.get_current(connection, user_id)
    if current is None or current.credits_withheld is None:
        return
    found = await free_credits.find(connection, user_id, now=now, requires_verified=True)
    changes: dict[str, object] = {"credits_withheld": found.withheld}
    plan = await plan_of(connection, current)
    if not allowances.is_withheld(plan, current):  # it costs something since, and a change of plan gave credits
        paid = await subscriptions.update(connection, current.id, **changes)
        if not await allowances.has_grant(connection, paid):
            await allowances.grant_withheld(connection, paid, plan=plan, actor=actor)
        return
    if found.withheld is None and found.running is not None:
        span = found.running
        changes |= {
            "period_anchor": span.anchor,
            "current_period_start": span.start,
            "current_period_end": span.end,
        }
    released = await subscriptions.update(connection, current.id, **changes)
    if released.credits_withheld is None and found.running is not None:
        await take_over_period(connection, released, actor=actor)
    elif released.credits_withheld is None:
        await allowances.grant_withheld(connection, released, plan=plan, actor=actor)


async def take_over_debt(connection: AsyncConnection, user_id: UUID, *, actor: str) -> int:
    """Moves what erased accounts of the person owe to this account; gives how much."""
    owed = 0
    for row in (await connection.execute(_DEBTS, {"user_id": user_id})).all():
        reason = f"the debt goes to account {user_id}"
        await grants.adjust(connection, row.user_id, amount=row.debt, reason=reason, actor=actor)
        owed += row.debt
    if owed:
        await grants.adjust(connection, user_id, amount=-owed, reason="the debt of an earlier account", actor=actor)
    return owed


_REMEMBER = text("""
    UPDATE users SET persons = persons || CAST(:person AS bytea)
     WHERE id = :user_id AND NOT persons @> ARRAY[CAST(:person AS bytea)]
""")
_REMEMBER_PROOF = text("""
    UPDATE users SET proven_persons = proven_persons || CAST(:person AS bytea)
     WHERE id = :user_id AND NOT proven_persons @> ARRAY[CAST(:person AS bytea)]
""")
_REMEMBER_ONLY_PROOF = text("""
    UPDATE users SET proven_persons = persons WHERE id = :user_id AND cardinality(persons) = 1
""")
_FORGET = text("""
    UPDATE users SET persons = '{}', proven_persons = '{}'
     WHERE id IN (SELECT id FROM users WHERE deleted_at < :before AND persons <> '{}' LIMIT :limit)
""")
_DEBTS = text(f"""
    SELECT c.user_id, -c.current_credits AS debt FROM user_credits c JOIN users u ON u.id = c.user_id
     WHERE u.deleted_at IS NOT NULL AND c.current_credits < 0 AND u.id IN ({free_credits.OF_PERSON})
     ORDER BY c.user_id FOR UPDATE OF c
""")  # noqa: S608 - made of constants
