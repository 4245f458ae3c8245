"""Usage: one row for each admitted request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from gateway.api import csv_export
from gateway.api.account.records.usage import ReceiptLine, receipt
from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.csv_export import NextPage
from gateway.api.errors import Invalid
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.api.schemas.usage_aggregates import CallAggregate
from gateway.api.unit_of_work import UnitOfWork
from gateway.ledger.accounts import users
from gateway.ledger.db.errors import NotFound
from gateway.ledger.usage import analytics, history
from gateway.ledger.usage.analytics import Dimension, Measure, UsageGroup
from gateway.ledger.usage.history import UsageFilter
from policies.billing.money import CreditValue, margin
from policies.model import Outcome
from policies.usage.counts import UsageSource

router = APIRouter(prefix="/usage", tags=["usage"])

GroupBy = Annotated[str, StringConstraints(pattern=usage_aggregates.pattern(Dimension))] | None

Sort = Annotated[str, StringConstraints(pattern=rf"^-?({'|'.join(Measure)})$")] | None


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
    model: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    usage_source: UsageSource | None
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


class UsageWithReceipt(Usage):
    computed: str = Field(description="How the charge came about.", examples=["2 credits per item x 3 items"])
    lines: list[ReceiptLine] = Field(description="The parts of the charge, which add up to it.")


class UsageAggregate(CallAggregate):
    __doc__ = CallAggregate.__doc__

    user_id: UUID | None
    email: str | None = Field(description="By `user`: the account's address; null for a deleted one.")
    cost_usd: Decimal = Field(description="What the upstreams ask for these calls, as far as it is known.")
    cost_unknown: int = Field(description="Calls whose cost is not known; `cost_usd` and `margin_usd` leave it out.")
    revenue_usd: Decimal | None = Field(
        description="The credits as money, by `credits.shown_as` of the settings; null without it, or in another "
        "currency than USD."
    )
    margin_usd: Decimal | None = Field(description="`revenue_usd` less `cost_usd`.")


class RecordQuery(PageQuery):
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    endpoint: Line | None = Field(default=None, description="The route's name.")
    outcome: Outcome | None = None
    since: Instant | None = Field(default=None, alias="from", description="From this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")

    def filter(self) -> UsageFilter:
        return UsageFilter(**self.model_dump(exclude={"limit", "cursor", "group_by", "sort", "format"}))


class UsageQuery(RecordQuery):
    # Each page of groups sums the span again, so a chart of a quarter by day and model is to be one page.
    limit: Annotated[int, Field(ge=1, le=1000, description="How many at most.")] = 50
    plan_id: Line | None = Field(default=None, description="The plan's id.")
    usage_type: Line | None = Field(default=None, examples=["analysis"])
    model: Line | None = Field(default=None, description="The model that the request asks for, else that answered.")
    usage_source: UsageSource | None = Field(default=None, description="How the usage of the call is known.")
    group_by: GroupBy = Field(
        default=None, examples=["day,endpoint"], description=usage_aggregates.description(Dimension, instead_of="rows")
    )
    sort: Sort = Field(
        default=None,
        examples=["-credits_charged"],
        description=f"Orders the groups by {', '.join(Measure)}, descending with a leading `-`.",
    )
    format: csv_export.Format | None = Field(
        default=None, description="csv: all of it, whatever the limit; or `Accept: text/csv`."
    )


ROW_COLUMNS = tuple(name for name in Usage.model_fields if name != "metadata")


@router.get(
    "",
    summary="List or sum usage",
    response_model=PageModel[UsageAggregate] | PageModel[Usage],
    responses=csv_export.CSV,
)
async def list_usage(
    query: Annotated[UsageQuery, Query()], request: Request, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep
) -> PageModel[UsageAggregate] | PageModel[Usage] | Response:
    """Newest first, some seconds behind the calls themselves. With `group_by`, sums in ascending order of it.

    `group_by=endpoint,status` tells what fails, `group_by=user&sort=-credits_charged` who uses most, and
    `group_by=model,plan` the margin of each model and plan. As CSV with `?format=csv` or `Accept: text/csv`.
    """
    if query.group_by is None:
        page, columns = _rows(query, unit_of_work), ROW_COLUMNS
    else:
        page = _grouped(query, query.group_by, unit_of_work, value=dependencies.credit_value)
        columns = tuple(UsageAggregate.model_fields)
    if csv_export.is_requested(request, query.format):
        return csv_export.stream(columns, page, file_name="usage.csv")
    return await page(query.cursor, query.limit)


def _rows(query: UsageQuery, unit_of_work: UnitOfWork) -> NextPage:
    if query.sort is not None:
        raise Invalid("sort", "needs group_by; rows come newest first")

    async def page(cursor: str | None, limit: int) -> PageModel[Usage]:
        async with unit_of_work.read() as connection:
            found = await history.list_usage(connection, query.filter(), cursor=cursor, limit=limit)
        return page_of(found, Usage.model_validate)

    return page


@router.get("/{request_id}", summary="Get a call with its receipt", responses=UNKNOWN)
async def get_call(request_id: UUID, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep) -> UsageWithReceipt:
    """By the id that the accounts go by: a client's own `X-Request-Id` is its `client_request_id`."""
    async with unit_of_work.read() as connection:
        row = await history.get_usage(connection, request_id)
    if row is None:
        raise NotFound("call", request_id)
    found = receipt(row, dependencies.routes.get(row.endpoint))
    return UsageWithReceipt(**asdict(row), computed=found.computed, lines=found.lines)


def _grouped(query: UsageQuery, group_by: str, unit_of_work: UnitOfWork, *, value: CreditValue | None) -> NextPage:
    """Checks the query here, before a response begins."""
    within, by = usage_aggregates.with_bounds(query.filter()), usage_aggregates.dimensions(group_by)

    async def page(cursor: str | None, limit: int) -> PageModel[UsageAggregate]:
        async with unit_of_work.read() as connection:
            groups = analytics.group_usage(connection, within, by, sort=query.sort, cursor=cursor, limit=limit)
            found = await usage_aggregates.in_time(groups, within)
            emails = await users.list_emails(connection, {group.user_id for group in found.data if group.user_id})
        return page_of(found, lambda group: _shown(group, emails, value))

    return page


def _shown(group: UsageGroup, emails: Mapping[UUID, str], value: CreditValue | None) -> UsageAggregate:
    email = None if group.user_id is None else emails.get(group.user_id)
    earned = margin(group.credits_charged, group.cost_usd, value)
    return UsageAggregate.model_validate(asdict(group) | earned._asdict() | {"email": email})
