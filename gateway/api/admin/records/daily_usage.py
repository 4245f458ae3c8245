"""Usage a day, apart for what is largest: what a chart shows."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StrictInt

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import RequestModel, ResponseModel
from gateway.ledger.usage import daily
from gateway.ledger.usage.analytics import Measure
from gateway.ledger.usage.history import UsageFilter
from policies.model import Outcome

router = APIRouter(prefix="/usage/daily", tags=["usage"])

MAX_SERIES = 50


class DailyUsageQuery(RequestModel):
    since: Instant | None = Field(default=None, alias="from", description="From this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")
    user_id: UUID | None = None
    endpoint: Line | None = Field(default=None, description="The route's name.")
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    model: Line | None = Field(default=None, description="The model that the request asks for, else that answered.")
    outcome: Outcome | None = None
    measure: Measure = Measure.REQUESTS
    split: daily.Split | None = None
    limit: Annotated[int, Field(ge=2, le=MAX_SERIES, description="How many series at most.")] = 6

    def filter(self) -> UsageFilter:
        return UsageFilter(**self.model_dump(exclude={"measure", "split", "limit"}))


class UsageSeries(ResponseModel):
    value: str | None = Field(description="What the calls have in common; null where they lack it, and for the rest.")
    is_rest: bool = Field(description="All values that have no series of their own.")
    sums: list[StrictInt] | list[Decimal] = Field(description="For each of `days`; of `cost_usd` as strings.")


class DailyUsage(ResponseModel):
    days: list[date] = Field(description="Each day of the span, in UTC.")
    series: list[UsageSeries] = Field(description="The largest first, the rest last.")


@router.get("", summary="Sum usage by day")
async def get_daily_usage(query: Annotated[DailyUsageQuery, Query()], unit_of_work: UnitOfWorkDep) -> DailyUsage:
    """One figure of a span of 366 days at most, the last 30 unless `from` says otherwise."""
    within = usage_aggregates.with_bounds(query.filter())
    async with unit_of_work.read() as connection:
        found = await usage_aggregates.in_time(
            daily.sum_daily(connection, within, query.measure, split=query.split, limit=query.limit), within
        )
    return DailyUsage.model_validate(found)
