"""Calls of a month: how they ended, what they earn, who makes most of them, and which were refused.

All but refusals, which are counted by the minute, come from sums that triggers keep: calls themselves are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import value as row_of
from gateway.ledger.reports.rows import Margins, Outcomes, Refusals, TopUser, begins, ends
from policies.billing.money import EXACT, CreditValue, margin

TOP_USERS = 100
_SHARE = Decimal("0.0001")

_OUTCOMES = text("""
    SELECT endpoint, outcome, CAST(sum(requests) AS bigint) AS requests,
           CAST(sum(credits_charged) AS bigint) AS credits_charged
      FROM usage_hours WHERE hour >= :since AND hour < :until
     GROUP BY 1, 2 HAVING sum(requests) > 0 ORDER BY 1, 2
""")
_MARGINS = text("""
    SELECT nullif(plan_id, '') AS plan_id, nullif(model, '') AS model, CAST(sum(requests) AS bigint) AS requests,
           CAST(sum(credits_charged) AS bigint) AS credits_charged, sum(cost_usd) AS cost_usd,
           CAST(sum(cost_unknown) AS bigint) AS cost_unknown
      FROM usage_hours WHERE hour >= :since AND hour < :until
     GROUP BY 1, 2 HAVING sum(requests) > 0 ORDER BY 1, 2
""")
_TOP_USERS = text("""
    SELECT user_id, requests, CAST(credits_charged AS bigint) AS credits_charged, cost_usd, cost_unknown
      FROM usage_months WHERE month = :month AND requests > 0
     ORDER BY credits_charged DESC, requests DESC, user_id LIMIT :limit
""")
_REFUSALS = text("""
    SELECT endpoint, code, CAST(sum(count) AS bigint) AS refusals
      FROM refused_requests WHERE minute >= :since AND minute < :until GROUP BY 1, 2 ORDER BY 1, 2
""")
_EMAILS = text("SELECT id, email FROM users WHERE id = ANY(:ids) AND deleted_at IS NULL")


async def outcomes(connection: AsyncConnection, month: date) -> tuple[Outcomes, ...]:
    rows = (await connection.execute(_OUTCOMES, _span(month))).all()
    of_route = Counter[str]()
    for row in rows:
        of_route[row.endpoint] += row.requests
    return tuple(
        Outcomes(month, row.endpoint, row.outcome, row.requests, _share(row.requests, of_route[row.endpoint]), row[3])
        for row in rows
    )


async def margins(connection: AsyncConnection, month: date, *, value: CreditValue | None) -> tuple[Margins, ...]:
    rows = await connection.execute(_MARGINS, _span(month))
    return tuple(
        Margins(month=month, plan_id=row.plan_id, model=row.model, **_earnings(row, value=value)) for row in rows
    )


async def top_users(connection: AsyncConnection, month: date, *, value: CreditValue | None) -> tuple[TopUser, ...]:
    """Those that were charged most, the first TOP_USERS, without their addresses."""
    rows = await connection.execute(_TOP_USERS, {"month": month, "limit": TOP_USERS})
    return tuple(
        TopUser(month=month, rank=rank, user_id=row.user_id, **_earnings(row, value=value))
        for rank, row in enumerate(rows, 1)
    )


async def with_emails(connection: AsyncConnection, rows: Iterable[TopUser]) -> tuple[TopUser, ...]:
    """The rows with today's addresses, which no report of a closed month keeps."""
    found = tuple(rows)
    named = await connection.execute(_EMAILS, {"ids": [row.user_id for row in found]})
    emails: dict[UUID, str] = {row.id: row.email for row in named}
    return tuple(replace(row, email=emails.get(row.user_id)) for row in found)


async def refusals(connection: AsyncConnection, month: date) -> tuple[Refusals, ...]:
    rows = await connection.execute(_REFUSALS, _span(month))
    return tuple(row_of(lambda **fields: Refusals(month, **fields), row) for row in rows)


def _earnings(row: Row[Any], *, value: CreditValue | None) -> dict[str, Any]:
    sums = ("requests", "credits_charged", "cost_usd", "cost_unknown")
    earned = margin(row.credits_charged, row.cost_usd, value)
    return {**{name: row._mapping[name] for name in sums}, **earned._asdict()}  # noqa: SLF001 - public by its docs


def _span(month: date) -> dict[str, object]:
    return {"since": begins(month), "until": ends(month)}


def _share(part: int, whole: int) -> Decimal:
    return EXACT.divide(Decimal(part), Decimal(whole)).quantize(_SHARE, context=EXACT)
