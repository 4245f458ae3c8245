"""Reports by month, each as rows of JSON or CSV."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from gateway.api import csv_export
from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.errors import Invalid
from gateway.api.schemas.pages import PageModel, PageQuery, ResponseModel, page_of
from gateway.api.schemas.reports import (
    CreditsRow,
    MarginRow,
    MrrRow,
    OutcomeRow,
    PlanMrrRow,
    RefusalRow,
    ReportMonth,
    RevenueRow,
    TopUserRow,
)
from gateway.api.unit_of_work import UnitOfWork
from gateway.clock import now
from gateway.ledger.db.rows import Page, decode_cursor, encode_cursor
from gateway.ledger.reports import months
from gateway.ledger.reports.rows import Report, month_of
from policies.billing.money import CreditValue

router = APIRouter(prefix="/reports", tags=["reports"])

MAX_MONTHS = 60

MODELS: Mapping[Report, type[ResponseModel]] = MappingProxyType(
    {
        Report.REVENUE: RevenueRow,
        Report.MRR: MrrRow,
        Report.PLANS: PlanMrrRow,
        Report.CREDITS: CreditsRow,
        Report.TOP_USERS: TopUserRow,
        Report.OUTCOMES: OutcomeRow,
        Report.REFUSALS: RefusalRow,
        Report.MARGINS: MarginRow,
    }
)
_SUMMARIES: Mapping[Report, str] = MappingProxyType(
    {
        Report.REVENUE: "Revenue by plan and provider",
        Report.MRR: "MRR, its movements, churn and ARPU",
        Report.PLANS: "MRR by plan",
        Report.CREDITS: "Credits outstanding",
        Report.TOP_USERS: "The accounts that were charged most",
        Report.OUTCOMES: "Calls by route and outcome",
        Report.REFUSALS: "Refused requests by route and code",
        Report.MARGINS: "Margin by plan and model",
    }
)
_DESCRIPTION = (
    "The oldest month first. A closed month never changes; the current one is as it is now, and a past one is closed "
    "a day after its end. As CSV with `?format=csv` or `Accept: text/csv`."
)

MonthText = Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$", examples=["2026-10"])]


class MonthsQuery(PageQuery):
    format: csv_export.Format | None = Field(default=None, description="csv: all rows, as `Accept` says.")


class ReportQuery(MonthsQuery):
    first: MonthText | None = Field(default=None, alias="from", description="The first month; else the last one only.")
    last: MonthText | None = Field(default=None, alias="to", description="The last month; else the current one.")

    def span(self) -> tuple[date, date]:
        """The first and the last month. Raises Invalid."""
        current = month_of(now())
        last = current if self.last is None else _month(self.last)
        first = last if self.first is None else _month(self.first)
        if last > current:
            raise Invalid("to", "is a month that has not begun")
        if first > last:
            raise Invalid("from", "must not be after the last month")
        if (last.year - first.year) * 12 + last.month - first.month >= MAX_MONTHS:
            raise Invalid("from", f"must be within {MAX_MONTHS} months of the last one")
        return first, last


async def list_rows(
    unit_of_work: UnitOfWork, report: Report, *, first: date, last: date, value: CreditValue | None
) -> tuple[Any, ...]:
    """The rows of the report from month to month, of the kind of `gateway.ledger.reports.rows.KINDS`."""
    async with unit_of_work.read() as connection:
        return await months.get_span(connection, report, first=first, last=last, value=value)


async def list_months(unit_of_work: UnitOfWork) -> tuple[months.Month, ...]:
    async with unit_of_work.read() as connection:
        return await months.list_months(connection, now=now())


@router.get(
    "/months", summary="The months with reports", response_model=PageModel[ReportMonth], responses=csv_export.CSV
)
async def get_months(
    query: Annotated[MonthsQuery, Query()], request: Request, unit_of_work: UnitOfWorkDep
) -> PageModel[Any] | Response:
    """The newest first; when each was closed, and which calls came too late for its reports."""
    found = await list_months(unit_of_work)
    return _answer(found, query, request, model=ReportMonth, file_name="months.csv")


Endpoint = Callable[..., Awaitable[PageModel[Any] | Response]]


def _endpoint(report: Report) -> Endpoint:
    async def read(
        query: Annotated[ReportQuery, Query()],
        request: Request,
        unit_of_work: UnitOfWorkDep,
        dependencies: DependenciesDep,
    ) -> PageModel[Any] | Response:
        first, last = query.span()
        rows = await list_rows(unit_of_work, report, first=first, last=last, value=dependencies.credit_value)
        return _answer(rows, query, request, model=MODELS[report], file_name=f"{report}.csv")

    return read


for _report, _model in MODELS.items():
    router.add_api_route(
        f"/{_report}",
        _endpoint(_report),
        methods=["GET"],
        name=f"get_report_{_report.replace('-', '_')}",
        summary=_SUMMARIES[_report],
        description=_DESCRIPTION,
        response_model=PageModel[_model],  # type: ignore[valid-type] # known when the module is loaded
        responses=csv_export.CSV,
    )


def _answer(
    rows: tuple[Any, ...], query: MonthsQuery, request: Request, *, model: type[ResponseModel], file_name: str
) -> PageModel[Any] | Response:
    """A page of the rows, or all of them as CSV."""

    def page(cursor: str | None, limit: int) -> PageModel[Any]:
        begin = 0 if cursor is None else decode_cursor(cursor)
        end = begin + limit
        found = Page(rows[begin:end], encode_cursor(end) if len(rows) > end else None)
        return page_of(found, model.model_validate)

    async def next_page(cursor: str | None, limit: int) -> PageModel[Any]:
        return page(cursor, limit)

    if csv_export.is_requested(request, query.format):
        return csv_export.stream(tuple(model.model_fields), next_page, file_name=file_name)
    return page(query.cursor, query.limit)


def _month(word: str) -> date:
    return date.fromisoformat(f"{word}-01")
