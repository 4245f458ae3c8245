"""Lists of payments and invoices: a page of records, their sums by group, or all of them as CSV."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastapi import Request, Response
from pydantic import Field

from gateway.api import csv_export
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.pages import PageModel, PageQuery, page_of
from gateway.api.unit_of_work import UnitOfWork
from gateway.ledger.db.rows import Page


class BillingQuery(PageQuery):
    """The fields that a subclass adds are those of the filter of its records; it narrows `sort` and `group_by`."""

    sort: str | None = None
    group_by: str | None = None
    format: csv_export.Format | None = Field(default=None, description="csv: all rows of the list, as `Accept` says.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingList:
    """What tells one kind of record from another; `list_page` and `sum_page` are of the ledger.

    `render_row` makes a row of the CSV, whose columns are `columns`; `render` a record of the JSON.
    """

    file_name: str
    filter: Callable[..., Any]
    dimension: type[StrEnum]
    list_page: Callable[..., Awaitable[Page[Any]]]
    sum_page: Callable[..., Awaitable[Page[Any]]]
    render: Callable[[Any], Any]
    render_row: Callable[[Any], Any]
    render_sum: Callable[[Any], Any]
    columns: Collection[str]


def sort_field(sortable: Collection[str], *, example: str) -> Any:
    return Field(
        default=None,
        pattern=rf"^-?({'|'.join(sortable)})$",
        examples=[example],
        description=f"One of {', '.join(sortable)}, descending with a leading `-`; else newest first.",
    )


def group_by_field(dimension: type[StrEnum], *, of: str, example: str, without: str) -> Any:
    """`without` says which records are summed only where they are asked for."""
    return Field(
        default=None,
        pattern=usage_aggregates.pattern(dimension),
        examples=[example],
        description=f"Sums by currency instead of {of}: any of {', '.join(dimension)}, separated by commas, in the "
        f"order to sort by. {without}",
    )


async def list_or_sum(
    records: BillingList, query: BillingQuery, *, request: Request, unit_of_work: UnitOfWork
) -> PageModel[Any] | Response:
    """Sums where the query groups, else CSV where it or `Accept` asks for it, else a page of JSON."""
    wanted = records.filter(**query.model_dump(exclude=set(BillingQuery.model_fields)))
    if query.group_by is not None:
        by = [records.dimension(name) for name in dict.fromkeys(query.group_by.split(","))]
        async with unit_of_work.read() as connection:
            sums = await records.sum_page(connection, wanted, by, cursor=query.cursor, limit=query.limit)
        return page_of(sums, records.render_sum)

    async def page(cursor: str | None, limit: int) -> Page[Any]:
        async with unit_of_work.read() as connection:
            return await records.list_page(connection, wanted, sort=query.sort, cursor=cursor, limit=limit)

    async def rows(cursor: str | None, limit: int) -> PageModel[Any]:
        return page_of(await page(cursor, limit), records.render_row)

    if csv_export.is_requested(request, query.format):
        return csv_export.stream(tuple(records.columns), rows, file_name=records.file_name)
    return page_of(await page(query.cursor, query.limit), records.render)
