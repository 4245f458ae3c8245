"""Usage: one row for each admitted request."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.api.schemas.usage_aggregates import CallAggregate
from gateway.api.unit_of_work import UnitOfWork
from gateway.ledger.usage import history
from gateway.ledger.usage.analytics import Dimension
from gateway.ledger.usage.history import UsageFilter
from policies.model import Outcome

router = APIRouter(prefix="/usage", tags=["usage"])

GroupBy = Annotated[str, StringConstraints(pattern=usage_aggregates.pattern(Dimension))] | None


class Usage(ResponseModel):
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


class UsageAggregate(CallAggregate):
    __doc__ = CallAggregate.__doc__

    user_id: UUID | None


class RecordQuery(PageQuery):
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    endpoint: Line | None = Field(default=None, description="The route's name.")
    outcome: Outcome | None = None
    since: Instant | None = Field(default=None, alias="from", description="From this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")

    def filter(self) -> UsageFilter:
        return UsageFilter(**self.model_dump(exclude={"limit", "cursor", "group_by"}))


class UsageQuery(RecordQuery):
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    usage_type: Line | None = Field(default=None, examples=["analysis"])
    group_by: GroupBy = Field(
        default=None, examples=["day,endpoint"], description=usage_aggregates.description(Dimension, instead_of="rows")
    )


@router.get("", summary="List or sum usage")
async def list_usage(
    query: Annotated[UsageQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[UsageAggregate] | PageModel[Usage]:
    """Newest first, some seconds behind the calls themselves. With `group_by`, sums in ascending order of it."""
    if query.group_by is not None:
        return await _grouped(query, query.group_by, unit_of_work)
    async with unit_of_work.read() as connection:
        page = await history.list_usage(connection, query.filter(), cursor=query.cursor, limit=query.limit)
    return page_of(page, Usage.model_validate)


async def _grouped(query: UsageQuery, group_by: str, unit_of_work: UnitOfWork) -> PageModel[UsageAggregate]:
    within, by = usage_aggregates.with_bounds(query.filter()), usage_aggregates.dimensions(group_by)
    async with unit_of_work.read() as connection:
        page = await usage_aggregates.aggregate(connection, within, by, cursor=query.cursor, limit=query.limit)
    return page_of(page, UsageAggregate.model_validate)
