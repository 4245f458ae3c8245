"""Refusals and money since an instant, such as midnight, each by an index on its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class MoneyCount:
    """Payments of one type, status and currency."""

    transaction_type: str
    status: str
    currency: str
    count: int
    amount: Decimal


async def count_refusals(connection: AsyncConnection, since: datetime) -> dict[str, int]:
    """Requests of known keys that were refused, by code, the most frequent first."""
    rows = await connection.execute(_REFUSALS, {"since": since})
    return {row.code: int(row.refused) for row in rows}


async def count_money(connection: AsyncConnection, since: datetime) -> list[MoneyCount]:
    rows = await connection.execute(_MONEY, {"since": since})
    return [MoneyCount(*row) for row in rows]


_REFUSALS = text("""
    SELECT code, sum(count) AS refused FROM refused_requests WHERE minute >= :since GROUP BY code ORDER BY 2 DESC
""")
_MONEY = text("""
    SELECT transaction_type, status, currency, count(*), sum(amount)
      FROM payment_transactions WHERE created_at >= :since GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
