"""What usage a provider was told of, by subscription and day: the next report is what the day has more than that.

A report is written down before it is sent and sent again as it was written, under its own identifier, until it is known
to have arrived. So whatever crashes, usage is neither told twice nor left out; and what is written late, after its day
was reported, makes another report of that day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import provider_customers, subscriptions, usage_reports


@dataclass(frozen=True, slots=True)
class UsageReport:
    """`identifier` is what the provider tells repetitions by; `used_at` lies in the day that the usage is of."""

    id: int
    subscription_id: UUID
    identifier: str
    credits_used: int
    used_at: datetime
    attempted_at: datetime | None


# Billed as the plan of each call says, whatever the subscription has become since. Days are UTC's. The identifier
# counts what was reported before, so a day's reports are told apart.
_DUE = text("""
    INSERT INTO usage_reports (subscription_id, day, used_at, identifier, credits_used)
    SELECT used.subscription_id, used.day, used.used_at,
           used.subscription_id || ':' || used.day || ':' || coalesce(told.credits, 0),
           used.credits - coalesce(told.credits, 0)
      FROM (SELECT u.subscription_id, CAST(u.created_at AT TIME ZONE 'UTC' AS date) AS day,
                   max(u.created_at) AS used_at, CAST(sum(u.credits_charged) AS bigint) AS credits
              FROM usage_tracking u
              JOIN subscriptions s ON s.id = u.subscription_id AND s.provider = :provider
              JOIN subscription_plans p ON p.id = u.plan_id AND p.pricing_model = 'usage'
             WHERE u.created_at >= :since AND u.created_at < :until
             GROUP BY 1, 2) used
      LEFT JOIN LATERAL (SELECT CAST(sum(r.credits_used) AS bigint) AS credits FROM usage_reports r
                          WHERE r.subscription_id = used.subscription_id AND r.day = used.day) told ON true
     WHERE used.credits > coalesce(told.credits, 0)
    ON CONFLICT (identifier) DO NOTHING
""")


async def write_down(connection: AsyncConnection, provider: str, *, since: datetime, until: datetime) -> int:
    """Writes reports of what was used and not reported yet, of plans priced by usage; gives how many.

    `since` must be the beginning of a day (UTC): a day is compared as a whole.
    """
    return (await connection.execute(_DUE, {"provider": provider, "since": since, "until": until})).rowcount


async def next_unsent(connection: AsyncConnection) -> UsageReport | None:
    """The oldest report that is not known to have arrived, in one hand at a time; noted as being tried."""
    oldest = (
        select(usage_reports.c.id)
        .where(usage_reports.c.reported_at.is_(None), usage_reports.c.error_message.is_(None))
        .order_by(usage_reports.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = (
        await connection.execute(
            select(*columns(usage_reports, UsageReport)).where(usage_reports.c.id.in_(oldest.scalar_subquery()))
        )
    ).one_or_none()
    if found is None:
        return None
    tried = {"attempted_at": func.coalesce(usage_reports.c.attempted_at, func.now())}
    await connection.execute(update(usage_reports).where(usage_reports.c.id == found.id).values(tried))
    return value(UsageReport, found)


async def not_sent(connection: AsyncConnection, report: UsageReport) -> None:
    """The attempt that `next_unsent` noted did not reach the provider's books: as if it had not been made."""
    as_before = {"attempted_at": report.attempted_at}
    await connection.execute(update(usage_reports).where(usage_reports.c.id == report.id).values(as_before))


async def arrived(connection: AsyncConnection, report: UsageReport, *, error: str | None = None) -> None:
    """It is done with: taken, or, with an `error`, refused for good and left to a person."""
    ended = {"reported_at": func.now()} if error is None else {"error_message": error}
    await connection.execute(update(usage_reports).where(usage_reports.c.id == report.id).values(ended))


async def customer_of(connection: AsyncConnection, report: UsageReport) -> str | None:
    """The provider's id of who used it."""
    query = (
        select(provider_customers.c.provider_customer_id)
        .join(
            subscriptions,
            (subscriptions.c.user_id == provider_customers.c.user_id)
            & (subscriptions.c.provider == provider_customers.c.provider),
        )
        .where(subscriptions.c.id == report.subscription_id)
    )
    found: str | None = await connection.scalar(query)
    return found
