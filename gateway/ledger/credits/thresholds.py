"""Tells accounts that a period's credits run low: once at each threshold, in the transaction that crosses it."""

from __future__ import annotations

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from policies.credits.allowances import LOW_BALANCE_PERCENTS

KIND = "credits.threshold"

_REACHED = " ".join(
    f"WHEN credits_used_this_period * 100 >= period_credits * {percent} THEN {percent}"
    for percent in sorted(LOW_BALANCE_PERCENTS, reverse=True)
)


def _note(user_ids: str) -> str:
    """Raises the mark of accounts that have used more than they were told of; `user_ids` is a relation of them."""
    return f"""
        WITH crossed AS (
             SELECT b.user_id, b.noted_percent AS told, CASE {_REACHED} ELSE 0 END AS reached
               FROM user_credits b JOIN {user_ids} c ON c.user_id = b.user_id
              WHERE b.period_credits > 0 AND b.noted_percent < {max(LOW_BALANCE_PERCENTS)}
                AND b.credits_used_this_period * 100 >= b.period_credits * {min(LOW_BALANCE_PERCENTS)})
        UPDATE user_credits b SET noted_percent = crossed.reached
          FROM crossed WHERE crossed.user_id = b.user_id AND crossed.reached > crossed.told
        RETURNING b.user_id, crossed.told, crossed.reached, b.period_credits, b.credits_used_this_period,
                  b.current_credits, b.period_start, b.period_end, b.subscription_id
    """  # noqa: S608 - made of constants of ours


_OF_CHARGES = text(_note("usage_charges"))
_OF_ONE = text(_note("(SELECT CAST(:user_id AS uuid) AS user_id)"))


async def note_charged(connection: AsyncConnection) -> int:
    """For `usage.ingest`, once its charges are booked; gives how many accounts were told."""
    return await _post(connection, _OF_CHARGES, {})


async def note_one(connection: AsyncConnection, user_id: object) -> int:
    """For who has changed what an account's period gives. The account's lock is held."""
    return await _post(connection, _OF_ONE, {"user_id": user_id})


async def _post(connection: AsyncConnection, statement: TextClause, parameters: dict[str, object]) -> int:
    rows = (await connection.execute(statement, parameters)).all()
    for row in rows:
        for percent in LOW_BALANCE_PERCENTS:
            if row.told < percent <= row.reached:
                await notifications.enqueue(
                    connection,
                    row.user_id,
                    kind=KIND,
                    payload={
                        "percent": percent,
                        "period_credits": row.period_credits,
                        "credits_used_this_period": row.credits_used_this_period,
                        "current_credits": row.current_credits,
                        "period_start": row.period_start.isoformat(),
                        "period_end": row.period_end.isoformat(),
                    },
                    once=f"credits.{percent}:{row.subscription_id}:{row.period_start.isoformat()}",
                )
    return len(rows)
