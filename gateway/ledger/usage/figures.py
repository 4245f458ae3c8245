"""Where figures of usage come from: whole hours from their sums, the rest of a span from the calls themselves.

The sums know no user, no key and no status code. Figures of an account are summed from its calls, which an index finds.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, case, func, literal, null, select, union_all

from gateway.ledger.db.tables import usage_hours, usage_tracking
from gateway.ledger.db.tables.usage import SUMMED
from gateway.ledger.usage.history import UsageFilter, matching

HOUR = timedelta(hours=1)
_OF_AN_HOUR = ("plan_id", "endpoint", "usage_type", "outcome", "model", "usage_source")


def figures(wanted: UsageFilter, *, by_call: bool) -> Subquery:
    """Rows of sums, each of one call or of many, whose `requests` says how many.

    Other columns are `at`, the keys, SUMMED, `cost_unknown`, `response_time_ms` and `timed_requests`, whose quotient is
    the mean. `by_call` keeps users, keys and status codes apart. `wanted` must have both ends.
    """
    if by_call or wanted.user_id is not None or wanted.api_key_id is not None:
        return _of_calls(wanted).subquery("figures")
    if wanted.since is None or wanted.until is None:
        raise ValueError("figures need a span with both ends")
    first, last = end_of_hour(wanted.since), _start_of_hour(wanted.until)
    if first >= last:
        return _of_calls(wanted).subquery("figures")
    edges = [replace(wanted, until=first), replace(wanted, since=last)]
    parts = [_of_hours(wanted, first, last), *(_of_calls(edge) for edge in edges if edge.since != edge.until)]
    return union_all(*parts).subquery("figures")


def end_of_hour(instant: datetime) -> datetime:
    """The instant itself where an hour ends, in UTC."""
    start = _start_of_hour(instant)
    return instant if start == instant else start + HOUR


def _start_of_hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _of_calls(wanted: UsageFilter) -> Select[Any]:
    call = usage_tracking.c
    figure = select(
        call.created_at.label("at"),
        *(call[name] for name in ("endpoint", "plan_id", "user_id", "model", "api_key_id", "outcome", "status_code")),
        literal(1).label("requests"),
        *(func.coalesce(call[name], 0).label(name) for name in SUMMED),
        _one_if(call.cost_usd.is_(None)).label("cost_unknown"),
        func.coalesce(call.response_time_ms, 0).label("response_time_ms"),
        _one_if(call.response_time_ms.is_not(None)).label("timed_requests"),
    )
    return matching(figure, usage_tracking, wanted)


def _of_hours(wanted: UsageFilter, first: datetime, last: datetime) -> Select[Any]:
    of_hour = usage_hours.c
    needed = {name: getattr(wanted, name) for name in _OF_AN_HOUR}
    return select(
        of_hour.hour.label("at"),
        of_hour.endpoint,
        func.nullif(of_hour.plan_id, "").label("plan_id"),
        null().label("user_id"),
        func.nullif(of_hour.model, "").label("model"),
        null().label("api_key_id"),
        of_hour.outcome,
        null().label("status_code"),
        of_hour.requests,
        *(of_hour[name] for name in SUMMED),
        *(of_hour.cost_unknown, of_hour.response_time_ms, of_hour.timed_requests),
    ).where(
        of_hour.hour >= first,
        of_hour.hour < last,
        *(of_hour[name] == value for name, value in needed.items() if value is not None),
    )


def _one_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)
