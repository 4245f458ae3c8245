"""Usage of the caller: each call with its receipt, or aggregates; as pages of JSON, or whole as CSV."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, PlainSerializer, StringConstraints

from gateway.api import csv_export
from gateway.api.account.dependencies import AccountDependencies, DependenciesDep, Reader
from gateway.api.csv_export import Format, NextPage
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.api.schemas.usage_aggregates import CallAggregate
from gateway.ledger.usage import analytics, history
from gateway.ledger.usage.analytics import Dimension
from gateway.ledger.usage.history import UsageFilter, UsageRow
from policies.billing.money import plain
from policies.model import Outcome, Route
from policies.pricing import receipts
from policies.pricing.model_costs import Flag
from policies.pricing.receipts import ADJUSTMENT, RecordedCall
from policies.usage.counts import UsageSource
from policies.usage.recorded import COLUMN_OF, read_usage
from policies.usage.records import BALANCE_AFTER

_DIMENSIONS = tuple(dimension for dimension in Dimension if dimension is not Dimension.USER)
GroupBy = Annotated[str, StringConstraints(pattern=usage_aggregates.pattern(_DIMENSIONS))] | None

router = APIRouter(prefix="/me", tags=["usage"], responses=SIGNED_IN)


Digits = Annotated[Decimal, PlainSerializer(plain, return_type=str)]


class ReceiptLine(ResponseModel):
    """A part of a charge: so many units of a kind, each `per` of them at a price in credits."""

    kind: str = Field(
        description="A usage class such as `cached_input`, the unit of the price such as `item`, or "
        f"`{ADJUSTMENT}`: what rounding up to whole credits, a minimum or a maximum adds.",
        examples=["input"],
    )
    count: Digits | None
    price: Digits | None = Field(description="In credits, for each `per`.")
    per: str | None = Field(examples=["1000000 tokens"])
    credits: Digits


class Call(ResponseModel):
    """`computed` says how the charge came about, `lines` part by part: they add up to it."""

    request_id: UUID
    created_at: datetime
    api_key_id: UUID | None
    plan_id: str | None
    endpoint: str
    method: str
    path: str
    usage_type: str
    outcome: Outcome
    status_code: int | None
    error_code: str | None
    credits_charged: int
    computed: str = Field(examples=["2 credits per 1000 tokens x 1500 tokens"])
    lines: list[ReceiptLine] = Field(description="Empty where the charge has no parts; `computed` then says why.")
    balance_after: int | None = Field(
        description="Credits left to spend right after this call was settled, less what calls under way then held: "
        "what X-Credits-Remaining tells. Null where it was not known: the account was just being loaded, or the call "
        "was served or settled while Redis was out of reach."
    )
    product_count: int
    tokens_used: int | None
    model: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    usage_source: UsageSource | None
    language_code: str | None
    category: str | None
    batch_id: str | None
    request_bytes: int | None
    response_bytes: int | None
    file_size_bytes: int | None
    response_time_ms: int | None
    client_ip: str | None
    client_request_id: str | None


class CallQuery(PageQuery):
    endpoint: Line | None = Field(default=None, description="The route's name.")
    outcome: Outcome | None = None
    since: Instant | None = Field(default=None, alias="from", description="From this instant on.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant.")
    format: Format | None = Field(
        default=None, description="csv: all of it, whatever the limit; or `Accept: text/csv`."
    )

    def filter(self, user_id: UUID) -> UsageFilter:
        query = self.model_dump(exclude={"limit", "cursor", "format", "group_by"})
        return UsageFilter(user_id=user_id, **query)


class CallAggregateQuery(CallQuery):
    model: Line | None = Field(default=None, description="The model that the request asks for, else that answered.")
    usage_source: UsageSource | None = Field(default=None, description="How the usage of the call is known.")
    api_key_id: UUID | None = Field(default=None, description="The key that made the call.")
    group_by: GroupBy = Field(
        default=None,
        examples=["day,endpoint"],
        description=usage_aggregates.description(_DIMENSIONS, instead_of="calls"),
    )


_COLUMNS = tuple(name for name in Call.model_fields if name != "lines")
_SUMS = tuple(CallAggregate.model_fields)


@router.get(
    "/usage",
    summary="Your calls, or their sums",
    response_model=PageModel[CallAggregate] | PageModel[Call],
    responses=csv_export.CSV,
)
async def list_usage(
    query: Annotated[CallAggregateQuery, Query()], request: Request, user_id: Reader, dependencies: DependenciesDep
) -> PageModel[CallAggregate] | PageModel[Call] | Response:
    """Newest first, some seconds behind the calls themselves. With `group_by`, sums in ascending order of it.

    Takes an API key too.
    """
    by = query.group_by
    page = calls(query, user_id, dependencies) if by is None else sums(query, by, user_id, dependencies)
    if csv_export.is_requested(request, query.format):
        return as_csv(page, is_sums=by is not None)
    return await page(query.cursor, query.limit)


def as_csv(page: NextPage, *, is_sums: bool = False) -> Response:
    return csv_export.stream(_SUMS if is_sums else _COLUMNS, page, file_name="usage.csv")


def calls(query: CallAggregateQuery, user_id: UUID, dependencies: AccountDependencies) -> NextPage:
    async def page(cursor: str | None, limit: int) -> PageModel[Call]:
        async with dependencies.database.read() as connection:
            found = await history.list_usage(connection, query.filter(user_id), cursor=cursor, limit=limit)
        return page_of(found, lambda row: receipt(row, dependencies.routes.get(row.endpoint)))

    return page


def sums(
    query: CallAggregateQuery,
    group_by: str,
    user_id: UUID,
    dependencies: AccountDependencies,
    *,
    sort: str | None = None,
) -> NextPage:
    """Checks the query here, before a response begins. `sort` is that of `group_usage`."""
    by, within = usage_aggregates.dimensions(group_by), usage_aggregates.with_bounds(query.filter(user_id))

    async def page(cursor: str | None, limit: int) -> PageModel[CallAggregate]:
        async with dependencies.database.read() as connection:
            groups = analytics.group_usage(connection, within, by, sort=sort, cursor=cursor, limit=limit)
            found = await usage_aggregates.in_time(groups, within)
        return page_of(found, CallAggregate.model_validate)

    return page


def receipt(row: UsageRow, route: Route | None) -> Call:
    found = receipts.receipt(route, _recorded(row))
    more: dict[str, Any] = {
        "computed": found.computed,
        "lines": [ReceiptLine(**asdict(line)) for line in found.lines],
        "balance_after": row.metadata.get(BALANCE_AFTER),
    }
    kept = {name: getattr(row, name) for name in _COLUMNS if name not in more}
    return Call.model_validate(kept | more)


def _recorded(row: UsageRow) -> RecordedCall:
    return RecordedCall(
        Outcome(row.outcome),
        row.credits_charged,
        row.product_count,
        row.tokens_used,
        row.response_time_ms,
        row.model or row.metadata.get("model"),
        read_usage({name: getattr(row, name) for name in COLUMN_OF.values()}, row.cost_usd, row.metadata),
        None if row.usage_source is None else UsageSource(row.usage_source),
        is_cut_by_plan=Flag.PLAN_MAXIMUM_REACHED in row.metadata.get("flags", ()),
    )
