"""Money of a month: revenue by plan and provider, and credits outstanding, which are a liability.

Revenue comes from the entries that triggers of payment_transactions write. An entry is of the month in which the money
came or went back. Where that month was closed before it was booked, the first open month reports it, so that months add
up to all money and a closed one never changes.
"""

from __future__ import annotations

from datetime import date

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import value as row_of
from gateway.ledger.reports.rows import Credits, Revenue, ends
from policies.billing.money import CreditValue

_REVENUE = text("""
    SELECT month, plan_id, provider, currency, count(DISTINCT payment_id) FILTER (WHERE kind = 'charge') AS payments,
           coalesce(sum(amount) FILTER (WHERE kind = 'charge'), 0) AS charged,
           coalesce(-sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunded,
           coalesce(-sum(amount) FILTER (WHERE kind = 'dispute'), 0) AS disputed,
           sum(amount) AS net, coalesce(sum(amount) FILTER (WHERE paid_month < month), 0) AS of_closed_months
      FROM revenue_entries WHERE month = :month
     GROUP BY month, plan_id, provider, currency ORDER BY currency, plan_id, provider
""")
# Balances now, less what has moved since: little, for a month that ended lately.
_OUTSTANDING = text("""
    SELECT count(*) FILTER (WHERE balance > 0) AS accounts,
           CAST(coalesce(sum(balance) FILTER (WHERE balance > 0), 0) AS bigint) AS outstanding,
           CAST(coalesce(-sum(balance) FILTER (WHERE balance < 0), 0) AS bigint) AS owed
      FROM (SELECT c.current_credits - coalesce(l.amount, 0) AS balance
              FROM user_credits c
              LEFT JOIN (SELECT user_id, sum(amount) AS amount FROM credit_ledger WHERE created_at >= :until
                          GROUP BY user_id) l USING (user_id)) b
""")


async def revenue(connection: AsyncConnection, month: date) -> tuple[Revenue, ...]:
    return tuple(row_of(Revenue, row) for row in await connection.execute(_REVENUE, {"month": month}))


async def outstanding(connection: AsyncConnection, month: date, *, value: CreditValue | None) -> tuple[Credits, ...]:
    """What accounts may still spend at the end of the month, or now; one row."""
    row = (await connection.execute(_OUTSTANDING, {"until": ends(month)})).one()
    return (
        Credits(
            month=month,
            accounts=row.accounts,
            outstanding=row.outstanding,
            owed=row.owed,
            currency=None if value is None else value.currency,
            outstanding_amount=None if value is None else value.amount(row.outstanding),
            owed_amount=None if value is None else value.amount(row.owed),
        ),
    )
