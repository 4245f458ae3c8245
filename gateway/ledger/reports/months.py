"""Reports by month: of a closed month as they were when it was closed, of an open one as they are now.

Months are closed in their order, each once. What comes later for a closed one changes nothing of it: money is reported
by the first open month (`money.py`), a subscription moves when it does, and late calls are counted beside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.reports import calls, money, mrr
from gateway.ledger.reports.rows import KINDS, Report, month_of, next_month
from policies.billing.money import CreditValue, plain


@dataclass(frozen=True, slots=True)
class Month:
    """A month that has anything to report. `late_requests` and `late_credits`: of calls that came after it was closed,
    which its reports lack.
    """

    month: date
    closed_at: datetime | None
    late_requests: int
    late_credits: int


Compute = Callable[[AsyncConnection, date, CreditValue | None], Awaitable[tuple[Any, ...]]]

_COMPUTED: Mapping[Report, Compute] = {
    Report.REVENUE: lambda connection, month, _: money.revenue(connection, month),
    Report.MRR: lambda connection, month, _: mrr.of_month(connection, month),
    Report.PLANS: lambda connection, month, _: mrr.by_plan(connection, month),
    Report.CREDITS: lambda connection, month, value: money.outstanding(connection, month, value=value),
    Report.TOP_USERS: lambda connection, month, value: calls.top_users(connection, month, value=value),
    Report.OUTCOMES: lambda connection, month, _: calls.outcomes(connection, month),
    Report.REFUSALS: lambda connection, month, _: calls.refusals(connection, month),
    Report.MARGINS: lambda connection, month, value: calls.margins(connection, month, value=value),
}


async def get(
    connection: AsyncConnection, report: Report, *, month: date, value: CreditValue | None
) -> tuple[Any, ...]:
    """The rows of the report, of the kind that KINDS has for it. `value` is what credits are worth while it is open."""
    stored = await connection.scalar(_STORED, {"month": month, "report": report})
    kind = KINDS[report]
    rows = (
        await _COMPUTED[report](connection, month, value)
        if stored is None
        else tuple(_row(kind, fields) for fields in stored)
    )
    return await calls.with_emails(connection, rows) if report is Report.TOP_USERS else rows


async def get_span(
    connection: AsyncConnection, report: Report, *, first: date, last: date, value: CreditValue | None
) -> tuple[Any, ...]:
    """The rows of the months from `first` to `last`, the oldest first."""
    rows: list[Any] = []
    month = first
    while month <= last:
        rows += await get(connection, report, month=month, value=value)
        month = next_month(month)
    return tuple(rows)


async def list_months(connection: AsyncConnection, *, now: datetime) -> tuple[Month, ...]:
    """From the first month with anything to report to that of `now`, the newest first."""
    first = await _first_month(connection)
    if first is None:
        return ()
    closed = {row.month: row for row in await connection.execute(_CLOSED)}
    used = {row.month: row for row in await connection.execute(_USED)}
    found, month = [], min(first, month_of(now))
    while month <= month_of(now):
        found.append(_month(month, closed.get(month), used.get(month)))
        month = next_month(month)
    return tuple(reversed(found))


async def next_to_close(connection: AsyncConnection, *, ended_by: datetime) -> date | None:
    """The first open month that had ended by then; None if there is none, or another process closes one."""
    last: date | None = await connection.scalar(text("SELECT max(month) FROM report_months"))
    month = await _first_month(connection) if last is None else next_month(last)
    return month if month is not None and month < month_of(ended_by) else None


async def close(connection: AsyncConnection, month: date, *, value: CreditValue | None) -> bool:
    """Stores the reports of a month as they are now; False if another process closes it."""
    if not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}):
        return False
    reports = {report: await _snapshot(connection, report, month=month, value=value) for report in _UNLOCKED}
    # Whoever books meanwhile waits, and then finds the month closed.
    await connection.execute(text("LOCK TABLE revenue_entries, subscription_movements IN SHARE ROW EXCLUSIVE MODE"))
    reports |= {report: await _snapshot(connection, report, month=month, value=value) for report in _BOOKED}
    inserted = await connection.execute(_CLOSE, {"month": month, "reports": reports})
    return inserted.rowcount > 0


_BOOKED = (Report.REVENUE, Report.MRR, Report.PLANS)
_UNLOCKED = tuple(report for report in Report if report not in _BOOKED)

# A fixed number, "reports" in ASCII.
_ADVISORY_LOCK = int.from_bytes(b"reports", "big")

_STORED = text("SELECT reports -> CAST(:report AS text) FROM report_months WHERE month = :month").columns(reports=JSONB)
_CLOSE = text("""
    INSERT INTO report_months (month, closed_at, reports) VALUES (:month, now(), :reports) ON CONFLICT DO NOTHING
""").bindparams(bindparam("reports", type_=JSONB))
_CLOSED = text("""
    SELECT month, closed_at, (SELECT coalesce(sum(CAST(o ->> 'requests' AS bigint)), 0)
                                FROM jsonb_array_elements(reports -> 'outcomes') o) AS requests,
           (SELECT coalesce(sum(CAST(o ->> 'credits_charged' AS bigint)), 0)
              FROM jsonb_array_elements(reports -> 'outcomes') o) AS credits
      FROM report_months
""")
_USED = text(
    "SELECT month, sum(requests) AS requests, sum(credits_charged) AS credits FROM usage_months GROUP BY month"
)
_FIRST = text("""
    SELECT least((SELECT min(month) FROM revenue_entries),
                 (SELECT date_trunc('month', min(moved_at) AT TIME ZONE 'UTC')::date FROM subscription_movements),
                 (SELECT min(month) FROM usage_months),
                 (SELECT date_trunc('month', created_at AT TIME ZONE 'UTC')::date FROM credit_ledger
                   ORDER BY id LIMIT 1))
""")


async def _snapshot(
    connection: AsyncConnection, report: Report, *, month: date, value: CreditValue | None
) -> list[dict[str, Any]]:
    return [_json(row) for row in await _COMPUTED[report](connection, month, value)]


async def _first_month(connection: AsyncConnection) -> date | None:
    found: date | None = await connection.scalar(_FIRST)
    return found


def _month(month: date, closed: Any, used: Any) -> Month:
    if closed is None:
        return Month(month, None, 0, 0)
    requests, credited = (0, 0) if used is None else (int(used.requests), int(used.credits))
    return Month(month, closed.closed_at, requests - int(closed.requests), credited - int(closed.credits))


def _json(row: Any) -> dict[str, Any]:
    """Amounts are strings, so that JSON keeps them exact."""
    return {name: _plain(field) for name, field in asdict(row).items()}


def _plain(field: object) -> object:
    if isinstance(field, Decimal):
        return plain(field)
    return str(field) if isinstance(field, date | UUID) else field


_READ: Mapping[str, Callable[[str], object]] = {"date": date.fromisoformat, "Decimal": Decimal, "UUID": UUID}


def _row(kind: type[Any], stored: Mapping[str, Any]) -> Any:
    """The row as it was stored; a field that it lacks, since a later version has it, has its default."""
    read = {field.name: _READ.get(str(field.type).removesuffix(" | None")) for field in fields(kind)}
    return kind(
        **{
            name: reader(found) if (reader := read[name]) and found is not None else found
            for name, found in stored.items()
        }
    )
