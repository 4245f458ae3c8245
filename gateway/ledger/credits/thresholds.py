"""Notifies accounts that a period's credits run low: once per threshold, in the transaction that crosses it."""

from __future__ import annotations

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from policies.credits.allowances import LOW_BALANCE_PERCENTS

KIND = "credits.threshold"

# Numeric: as bigint the products overflow for credits near 2**63, and with them the charges of everybody in a batch.
_REACHED = " ".join(
    f"WHEN credits_used_this_period * 100.0 >= period_credits * {percent}.0 THEN {percent}"
    for percent in sorted(LOW_BALANCE_PERCENTS, reverse=True)
)


def _raise_mark_sql(user_ids: str) -> str:
    """Raises the notified percentage of accounts in the relation `user_ids` that have crossed a threshold."""
    return f"""
        WITH crossed AS (
             SELECT b.user_id, b.noted_percent AS notified, CASE {_REACHED} ELSE 0 END AS reached
               FROM user_credits b JOIN {user_ids} c ON c.user_id = b.user_id
              WHERE b.period_credits > 0 AND b.noted_percent < {max(LOW_BALANCE_PERCENTS)}
                AND b.credits_used_this_period * 100.0 >= b.period_credits * {min(LOW_BALANCE_PERCENTS)}.0)
        UPDATE user_credits b SET noted_percent = crossed.reached
          FROM crossed WHERE crossed.user_id = b.user_id AND crossed.reached > crossed.notified
        RETURNING b.user_id, crossed.notified, crossed.reached, b.period_credits, b.credits_used_this_period,
                  b.current_credits, b.period_start, b.period_end, b.subscription_id
    """  # noqa: S608 - made of constants


_OF_CHARGES = text(_raise_mark_sql("usage_charges"))
_OF_ONE = text(_raise_mark_sql("(SELECT CAST(:user_id AS uuid) AS user_id)"))


async def notify_charged(connection: AsyncConnection) -> int:
    """Notifies the accounts in `usage_charges`, after their charges; gives how many crossed a threshold."""
    return await _enqueue(connection, _OF_CHARGES, {})


async def notify_account(connection: AsyncConnection, user_id: object) -> int:
    """Notifies an account after a change of its period's credits. The caller holds the account's lock."""
    return await _enqueue(connection, _OF_ONE, {"user_id": user_id})


async def _enqueue(connection: AsyncConnection, statement: TextClause, parameters: dict[str, object]) -> int:
    rows = (await connection.execute(statement, parameters)).all()
    for row in rows:
        for percent in LOW_BALANCE_PERCENTS:
            if row.notified < percent <= row.reached:
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
