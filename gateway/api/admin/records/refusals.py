"""Refusals: how many requests of known keys were refused, by what, and where."""

from __future__ import annotations

from datetime import date
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.ledger.usage.refusals import RefusalDimension, RefusalFilter, group_refusals

router = APIRouter(prefix="/refusals", tags=["usage"])

GroupBy = Annotated[str, StringConstraints(pattern=usage_aggregates.pattern(RefusalDimension))]


class RefusalSum(ResponseModel):
    """The refused requests that share what they are grouped by; null where they are not grouped by it."""

    day: date | None
    endpoint: str | None = Field(description="The route's name.")
    code: str | None = Field(description="Of the problem document.", examples=["insufficient_credits"])
    api_key_id: UUID | None
    user_id: UUID | None
    requests: int


class RefusalSumQuery(PageQuery):
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    endpoint: Line | None = Field(default=None, description="The route's name.")
    code: Line | None = Field(default=None, examples=["rate_limited"])
    since: Instant | None = Field(default=None, alias="from", description="From this instant on, to the minute.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")
    group_by: GroupBy = Field(
        default="endpoint,code",
        examples=["day,code"],
        description=f"Any of {', '.join(RefusalDimension)}, separated by commas.",
    )


@router.get("", summary="Sum refused requests")
async def list_refusals(
    query: Annotated[RefusalSumQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[RefusalSum]:
    """The most refused first; of the last 30 days unless `from` says otherwise, some seconds behind the requests.

    Refused requests are no usage: nothing was forwarded and nothing charged. Those without a known key are counted in
    the metrics only.
    """
    since, until = usage_aggregates.bounds(query.since, query.until)
    named = query.model_dump(include={"user_id", "api_key_id", "endpoint", "code"})
    wanted = RefusalFilter(since=since, until=until, **named)
    by = [RefusalDimension(name) for name in dict.fromkeys(query.group_by.split(","))]
    async with unit_of_work.read() as connection:
        page = await group_refusals(connection, wanted, by, cursor=query.cursor, limit=query.limit)
    return page_of(page, RefusalSum.model_validate)
