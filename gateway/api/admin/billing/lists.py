"""Lists of payments and invoices: a page of records, their sums by group, or all of them as CSV."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from fastapi import Request, Response
from pydantic import Field

from gateway.api import csv_export
from gateway.api.errors import Invalid
from gateway.api.schemas import usage_aggregates
from gateway.api.schemas.pages import PageModel, PageQuery, page_of
from gateway.api.unit_of_work import UnitOfWork
from gateway.ledger.db.rows import Page


class BillingQuery(PageQuery):
    """The fields that a subclass adds are those of the filter of its records; it narrows `sort` and `group_by`."""

    sort: str | None = None
    group_by: str | None = None
    format: csv_export.Format | None = Field(
        default=None, description="csv: all rows or sums, whatever the limit; or `Accept: text/csv`."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingList:
    """What tells one kind of record from another; `list_page` and `sum_page` are of the ledger.

    `render_row` makes a row of the CSV, whose columns are `columns`; `render` a record of the JSON. Lists are sorted by
    one of `sortable`, sums by one of `sortable_sums`.
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
    sum_columns: Collection[str]
    sortable: Collection[str]
    sortable_sums: Collection[str]


def sort_field(sortable: Collection[str], sums: Collection[str], *, example: str) -> Any:
    return Field(
        default=None,
        pattern=rf"^-?({'|'.join(dict.fromkeys((*sortable, *sums)))})$",
        examples=[example],
        description=f"One of {', '.join(sortable)}, descending with a leading `-`; else newest first. With `group_by` "
        f"one of {', '.join(sums)}.",
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
    """Sums where the query groups, else records: a page of JSON, or all as CSV where the query or `Accept` asks for it.

    Raises Invalid for what the list or the sums cannot be sorted by.
    """
    is_sums = query.group_by is not None
    _check_sort(query.sort, records.sortable_sums if is_sums else records.sortable)
    is_csv = csv_export.is_requested(request, query.format)
    render = records.render_sum if is_sums else records.render_row if is_csv else records.render
    found = _pages(records, query, unit_of_work)

    async def page(cursor: str | None, limit: int) -> PageModel[Any]:
        return page_of(await found(cursor, limit), render)

    if is_csv:
        columns = records.sum_columns if is_sums else records.columns
        return csv_export.stream(tuple(columns), page, file_name=records.file_name)
    return await page(query.cursor, query.limit)


def _check_sort(sort: str | None, sortable: Collection[str]) -> None:
    if sort is not None and sort.removeprefix("-") not in sortable:
        raise Invalid("sort", f"must be one of {', '.join(sortable)} here")


def _pages(
    records: BillingList, query: BillingQuery, unit_of_work: UnitOfWork
) -> Callable[[str | None, int], Awaitable[Page[Any]]]:
    wanted = records.filter(**query.model_dump(exclude=set(BillingQuery.model_fields)))
    find = records.list_page
    if query.group_by is not None:
        by = [records.dimension(name) for name in dict.fromkeys(query.group_by.split(","))]
        find = partial(records.sum_page, by=by)

    async def page(cursor: str | None, limit: int) -> Page[Any]:
        async with unit_of_work.read() as connection:
            return await find(connection, wanted, sort=query.sort, cursor=cursor, limit=limit)

    return page
