"""Usage reports to a provider, by subscription and day: each reports what the day has more than those before it.

A report is stored before it is sent, and sent again under the same identifier until the provider has confirmed it. So a
crash neither repeats nor loses usage. Usage that is recorded after its day was reported makes another report of
the day. What postpaid plans used beyond their credits has reports too, which `subscriptions/overage.py` writes.
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
    """The provider recognises repetitions by `identifier`; `used_at` lies within the reported day."""

    id: int
    subscription_id: UUID
    identifier: str
    credits_used: int
    used_at: datetime
    attempted_at: datetime | None


# Each call is billed by the plan it was made under, in the version that the subscription keeps. Days are UTC. The
# identifier contains the credits reported before, so that it differs between the reports of a day.
_DUE = text("""
    INSERT INTO usage_reports (subscription_id, day, used_at, identifier, credits_used)
    SELECT used.subscription_id, used.day, used.used_at,
           used.subscription_id || ':' || used.day || ':' || coalesce(reported.credits, 0),
           used.credits - coalesce(reported.credits, 0)
      FROM (SELECT u.subscription_id, CAST(u.created_at AT TIME ZONE 'UTC' AS date) AS day,
                   max(u.created_at) AS used_at, CAST(sum(u.credits_charged) AS bigint) AS credits
              FROM usage_tracking u
              JOIN subscriptions s ON s.id = u.subscription_id AND s.provider = :provider
              JOIN subscription_plans p ON p.id = u.plan_id
              LEFT JOIN plan_versions v ON s.keeps_version AND s.plan_id = u.plan_id
                    AND v.plan_id = s.plan_id AND v.version = s.plan_version
             WHERE u.created_at >= :since AND u.created_at < :until
               AND u.plan_id IN (SELECT id FROM subscription_plans WHERE pricing_model = 'usage'
                                 UNION SELECT plan_id FROM plan_versions WHERE terms ->> 'pricing_model' = 'usage')
               AND coalesce(v.terms ->> 'pricing_model', p.pricing_model) = 'usage'
             GROUP BY 1, 2) used
      LEFT JOIN LATERAL (SELECT CAST(sum(r.credits_used) AS bigint) AS credits FROM usage_reports r
                          WHERE r.subscription_id = used.subscription_id AND r.day = used.day
                            AND strpos(r.identifier, ':overage:') = 0) reported ON true
     WHERE used.credits > coalesce(reported.credits, 0)
    ON CONFLICT (identifier) DO NOTHING
""")


async def create_due(connection: AsyncConnection, provider: str, *, since: datetime, until: datetime) -> int:
    """Creates reports of unreported usage on plans priced by usage; returns how many.

    `since` must be the start of a UTC day, since days are compared as a whole.
    """
    return (await connection.execute(_DUE, {"provider": provider, "since": since, "until": until})).rowcount


async def start_next(connection: AsyncConnection, provider: str) -> UsageReport | None:
    """The oldest unconfirmed report to the provider, locked until the transaction ends, with its attempt recorded.

    `attempted_at` is that of the first attempt before this one.
    """
    of_provider = select(subscriptions.c.id).where(subscriptions.c.provider == provider)
    oldest = (
        select(usage_reports.c.id)
        .where(
            usage_reports.c.reported_at.is_(None),
            usage_reports.c.error_message.is_(None),
            usage_reports.c.subscription_id.in_(of_provider),
        )
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
    attempt = {"attempted_at": func.coalesce(usage_reports.c.attempted_at, func.now())}
    await connection.execute(update(usage_reports).where(usage_reports.c.id == found.id).values(attempt))
    return value(UsageReport, found)


async def undo_start(connection: AsyncConnection, report: UsageReport) -> None:
    """For an attempt that the provider certainly did not count."""
    before = {"attempted_at": report.attempted_at}
    await connection.execute(update(usage_reports).where(usage_reports.c.id == report.id).values(before))


async def complete(connection: AsyncConnection, report: UsageReport, *, error: str | None = None) -> None:
    """Ends the report: confirmed or, with an `error`, refused for good, so that an operator must look at it."""
    outcome = {"reported_at": func.now()} if error is None else {"error_message": error}
    await connection.execute(update(usage_reports).where(usage_reports.c.id == report.id).values(outcome))


async def find_customer(connection: AsyncConnection, report: UsageReport) -> str | None:
    """The provider's id of the user."""
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
