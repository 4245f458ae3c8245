"""Notifies accounts that their credits run low: once per threshold, in the transaction that crosses it.

Thresholds are used percentages of a period's credits, and a balance. A balance counts when a charge passes it, not when
credits expire: at the end of a period they do so just before the next ones come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.tables import user_credits
from policies.credits.allowances import LOW_BALANCE_PERCENTS

KIND, KIND_OF_BALANCE = "credits.threshold", "credits.low"
_PERCENTS = f"coalesce(b.alert_percents, '{{{', '.join(map(str, LOW_BALANCE_PERCENTS))}}}'::smallint[])"


@dataclass(frozen=True, slots=True)
class Alerts:
    """At which used `percents` of a period's credits, rising, and below which balance an account is notified."""

    percents: tuple[int, ...] = LOW_BALANCE_PERCENTS
    balance_below: int | None = None


# Numeric: as bigint the products overflow for credits near 2**63, and with them the charges of everybody in a batch.
def _reached_sql(percents: str) -> str:
    return f"""
        coalesce((SELECT max(percent) FROM unnest({percents}) AS percent
                   WHERE b.period_credits > 0
                     AND b.credits_used_this_period * 100.0 >= b.period_credits * percent::numeric), 0::smallint)
    """  # noqa: S608 - made of constants


def _raise_marks_sql(user_ids: str) -> str:
    """Marks what accounts in the relation `user_ids` have crossed. The first filter costs nothing in a usual batch."""
    return f"""
        WITH crossed AS (
             SELECT b.user_id, b.noted_percent AS notified, {_reached_sql(_PERCENTS)} AS reached,
                    coalesce(b.current_credits < b.alert_balance AND NOT b.balance_alerted, false) AS fell_below
               FROM user_credits b JOIN {user_ids} c ON c.user_id = b.user_id
              WHERE b.period_credits > 0 AND b.noted_percent < 100
                AND b.credits_used_this_period * 100.0
                    >= b.period_credits * coalesce(b.alert_percents[1], {min(LOW_BALANCE_PERCENTS)})::numeric
                 OR b.current_credits < b.alert_balance AND NOT b.balance_alerted)
        UPDATE user_credits b SET noted_percent = greatest(b.noted_percent, crossed.reached),
                                  balance_alerted = b.balance_alerted OR crossed.fell_below
          FROM crossed
         WHERE crossed.user_id = b.user_id AND (crossed.reached > crossed.notified OR crossed.fell_below)
        RETURNING b.user_id, crossed.notified, crossed.reached, crossed.fell_below, b.period_credits,
                  b.credits_used_this_period, b.current_credits, b.period_start, b.period_end, b.subscription_id,
                  b.alert_balance, {_PERCENTS} AS percents
    """  # noqa: S608 - made of constants


_OF_CHARGES = text(_raise_marks_sql("usage_charges"))
_OF_ONE = text(_raise_marks_sql("(SELECT CAST(:user_id AS uuid) AS user_id)"))
# What is passed already when alerts are chosen is known to who chooses them.
_CHOOSE = text(f"""
    UPDATE user_credits b
       SET alert_percents = CAST(:percents AS smallint[]), alert_balance = CAST(:balance AS bigint),
           balance_alerted = coalesce(current_credits < CAST(:balance AS bigint), false),
           noted_percent = greatest(noted_percent, {_reached_sql("CAST(:percents AS smallint[])")}), updated_at = now()
     WHERE user_id = :user_id
""")  # noqa: S608 - made of constants


async def get_alerts(connection: AsyncConnection, user_id: UUID, *, for_update: bool = False) -> Alerts:
    """Raises NotFound."""
    query = select(user_credits.c.alert_percents, user_credits.c.alert_balance).where(user_credits.c.user_id == user_id)
    row = (await connection.execute(query.with_for_update() if for_update else query)).one_or_none()
    if row is None:
        raise NotFound("user", user_id)
    percents = LOW_BALANCE_PERCENTS if row.alert_percents is None else tuple(row.alert_percents)
    return Alerts(percents, row.alert_balance)


async def choose_alerts(connection: AsyncConnection, user_id: UUID, alerts: Alerts) -> None:
    """The account is notified by these from now on, and not of what it has passed already."""
    values = {"user_id": user_id, "percents": list(alerts.percents), "balance": alerts.balance_below}
    await connection.execute(_CHOOSE, values)


async def notify_charged(connection: AsyncConnection) -> int:
    """Notifies the accounts in `usage_charges`, after their charges; gives how many crossed a threshold."""
    return await _enqueue(connection, _OF_CHARGES, {})


async def notify_account(connection: AsyncConnection, user_id: object) -> int:
    """Notifies an account after a change of its period's credits. The caller holds the account's lock."""
    return await _enqueue(connection, _OF_ONE, {"user_id": user_id})


async def _enqueue(connection: AsyncConnection, statement: TextClause, parameters: dict[str, object]) -> int:
    rows = (await connection.execute(statement, parameters)).all()
    for row in rows:
        for percent in row.percents:
            if row.notified < percent <= row.reached:
                await _enqueue_percent(connection, row, percent)
        if row.fell_below:
            payload = {"balance_below": row.alert_balance, "current_credits": row.current_credits}
            await notifications.enqueue(connection, row.user_id, kind=KIND_OF_BALANCE, payload=payload)
    return len(rows)


async def _enqueue_percent(connection: AsyncConnection, row: Row[Any], percent: int) -> None:
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
