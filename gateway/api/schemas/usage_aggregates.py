"""Aggregates of calls, the same for their owner and for an operator."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from pydantic import Field

from gateway.api.errors import Invalid
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.ledger.usage import analytics
from gateway.ledger.usage.analytics import MAX_SPAN, TIMEOUT_SECONDS, Dimension
from gateway.ledger.usage.figures import end_of_hour
from gateway.ledger.usage.history import UsageFilter

DEFAULT_SPAN = timedelta(days=30)

T = TypeVar("T")


class CallAggregate(ResponseModel):
    """The calls that share what they are grouped by; null where they are not grouped by it. Days are those of UTC."""

    day: date | None
    endpoint: str | None
    plan_id: str | None
    model: str | None
    api_key_id: UUID | None
    outcome: str | None
    status_code: int | None = Field(description="By `status`: of the response that the client got.")
    requests: int
    succeeded: int
    credits_charged: int
    product_count: int
    tokens_used: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    request_bytes: int
    response_bytes: int
    response_time_ms: int | None = Field(description="The mean.")


def pattern(dimensions: Iterable[StrEnum]) -> str:
    """The pattern of `group_by`: one or more of these, separated by commas."""
    names = list(dimensions)
    one = "|".join(names)
    return rf"^({one})(,({one})){{0,{len(names) - 1}}}$"


def description(dimensions: Iterable[Dimension], *, instead_of: str) -> str:
    return (
        f"Sums instead of {instead_of}, over {MAX_SPAN.days} days at most and the last {DEFAULT_SPAN.days} unless "
        f"`from` says otherwise: any of {', '.join(dimensions)}, separated by commas, in the order to sort by."
    )


def dimensions(group_by: str) -> list[Dimension]:
    """Each once, however often it is named."""
    return [Dimension(name) for name in dict.fromkeys(group_by.split(","))]


def with_bounds(wanted: UsageFilter) -> UsageFilter:
    """The filter with both ends, at most `MAX_SPAN` apart. Raises Invalid."""
    since, until = bounds(wanted.since, wanted.until)
    return replace(wanted, since=since, until=until)


def bounds(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Both ends, at most `MAX_SPAN` apart; by default the last days. Raises Invalid."""
    until = until or end_of_hour(now())
    since = since or until - DEFAULT_SPAN
    if not timedelta(0) <= until - since <= MAX_SPAN:
        raise Invalid("from", f"must be before `to`, by {MAX_SPAN.days} days at most")
    return since, until


async def in_time(reading: Awaitable[T], within: UsageFilter) -> T:
    """What it reads. Raises Invalid where that takes longer than a response may."""
    try:
        return await reading
    except analytics.TooMuch:
        fewer = "fewer days" if within.user_id is not None else "fewer days or one user"
        raise Invalid("from", f"this takes longer than {TIMEOUT_SECONDS} s to sum; ask for {fewer}") from None
