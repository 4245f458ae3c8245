"""What happened since an instant, such as midnight: calls, refusals and money, each by an index on its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import DatabaseUnavailable
from gateway.ledger.usage.analytics import TIMEOUT_SECONDS, TooMuch


@dataclass(frozen=True, slots=True)
class CallCount:
    """Calls of a route that ended alike and whose usage is known alike."""

    endpoint: str
    outcome: str
    usage_source: str | None
    calls: int
    credits: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class MoneyCount:
    """Payments of one type, status and currency."""

    transaction_type: str
    status: str
    currency: str
    count: int
    amount: Decimal


async def count_calls(connection: AsyncConnection, since: datetime) -> list[CallCount]:
    """Raises TooMuch."""
    await connection.execute(text(f"SET LOCAL statement_timeout = {TIMEOUT_SECONDS * 1000}"))
    try:
        rows = (await connection.execute(_CALLS, {"since": since})).all()
    except DatabaseUnavailable as error:
        if "statement timeout" in str(error):
            raise TooMuch from error
        raise
    return [CallCount(*row) for row in rows]


async def count_refusals(connection: AsyncConnection, since: datetime) -> dict[str, int]:
    """Requests of known keys that were refused, by code, the most frequent first."""
    rows = await connection.execute(_REFUSALS, {"since": since})
    return {row.code: int(row.refused) for row in rows}


async def count_money(connection: AsyncConnection, since: datetime) -> list[MoneyCount]:
    rows = await connection.execute(_MONEY, {"since": since})
    return [MoneyCount(*row) for row in rows]


_CALLS = text("""
    SELECT endpoint, outcome, usage_source, count(*), sum(credits_charged)::bigint, coalesce(sum(cost_usd), 0)
      FROM usage_tracking WHERE created_at >= :since GROUP BY 1, 2, 3 ORDER BY 4 DESC
""")
_REFUSALS = text("""
    SELECT code, sum(count) AS refused FROM refused_requests WHERE minute >= :since GROUP BY code ORDER BY 2 DESC
""")
_MONEY = text("""
    SELECT transaction_type, status, currency, count(*), sum(amount)
      FROM payment_transactions WHERE created_at >= :since GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
