"""Usage: one row for each admitted request."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from gateway.api.admin.collaborators import TheDesk
from gateway.api.desk import Desk
from gateway.api.errors import Invalid
from gateway.api.fields import Instant, Line
from gateway.api.shapes import Listing, Paging, Shown, listing
from gateway.clock import now
from gateway.ledger import analytics, history
from gateway.ledger.analytics import MAX_SPAN, Dimension
from gateway.ledger.history import UsageFilter
from policies.model import Outcome

router = APIRouter(prefix="/usage", tags=["usage"])

DEFAULT_SPAN = timedelta(days=30)
_DIMENSION = "|".join(Dimension)
GroupBy = Annotated[str, StringConstraints(pattern=rf"^({_DIMENSION})(,({_DIMENSION})){{0,3}}$")] | None


class Usage(Shown):
    request_id: UUID
    created_at: datetime
    user_id: UUID
    api_key_id: UUID | None
    subscription_id: UUID | None
    plan_id: str | None
    endpoint: str
    method: str
    path: str
    usage_type: str
    outcome: Outcome
    status_code: int | None
    error_code: str | None
    credits_charged: int
    product_count: int
    tokens_used: int | None
    cost_usd: Decimal | None
    language_code: str | None
    category: str | None
    batch_id: str | None
    request_bytes: int | None
    response_bytes: int | None
    file_size_bytes: int | None
    response_time_ms: int | None
    upstream_time_ms: int | None
    client_ip: str | None
    client_request_id: str | None
    metadata: dict[str, Any]


class UsageGroup(Shown):
    """The calls that share what they are grouped by; null where they are not grouped by it. Days are those of UTC."""

    day: date | None
    endpoint: str | None
    plan_id: str | None
    user_id: UUID | None
    requests: int
    succeeded: int
    credits_charged: int
    product_count: int
    tokens_used: int
    cost_usd: Decimal
    request_bytes: int
    response_bytes: int
    response_time_ms: int | None = Field(description="The mean.")


class CallList(Paging):
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    endpoint: Line | None = Field(default=None, description="The route's name.")
    outcome: Outcome | None = None
    since: Instant | None = Field(default=None, alias="from", description="From this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")

    def filter(self) -> UsageFilter:
        return UsageFilter(**self.model_dump(exclude={"limit", "cursor", "group_by"}))


class UsageList(CallList):
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    usage_type: Line | None = Field(default=None, examples=["analysis"])
    group_by: GroupBy = Field(
        default=None,
        examples=["day,endpoint"],
        description=f"Sums instead of rows, over {MAX_SPAN.days} days at most and the last {DEFAULT_SPAN.days} unless "
        "`from` says otherwise: any of day, endpoint, plan, user, separated by commas, in the order to sort by.",
    )


@router.get("", summary="List or sum usage")
async def list_usage(wanted: Annotated[UsageList, Query()], desk: TheDesk) -> Listing[UsageGroup] | Listing[Usage]:
    """Newest first, some seconds behind the calls themselves. With `group_by`, sums in ascending order of it."""
    if wanted.group_by is not None:
        return await _grouped(wanted, _dimensions(wanted.group_by), desk)
    async with desk.read() as connection:
        page = await history.list_usage(connection, wanted.filter(), cursor=wanted.cursor, limit=wanted.limit)
    return listing(page, Usage.model_validate)


async def _grouped(wanted: UsageList, by: list[Dimension], desk: Desk) -> Listing[UsageGroup]:
    until = wanted.until or now()
    since = wanted.since or until - DEFAULT_SPAN
    if not timedelta(0) <= until - since <= MAX_SPAN:
        raise Invalid("from", f"must be before `to`, by {MAX_SPAN.days} days at most")
    within = replace(wanted.filter(), since=since, until=until)
    async with desk.read() as connection:
        try:
            page = await analytics.group_usage(connection, within, by, cursor=wanted.cursor, limit=wanted.limit)
        except analytics.TooMuch:
            seconds = analytics.TIMEOUT_SECONDS
            raise Invalid(
                "from", f"this takes longer than {seconds} s to sum; ask for fewer days or one user"
            ) from None
    return listing(page, UsageGroup.model_validate)


def _dimensions(written: str) -> list[Dimension]:
    """Each once, however often it is named."""
    return [Dimension(name) for name in dict.fromkeys(written.split(","))]
