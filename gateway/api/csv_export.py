"""Lists as CSV (RFC 4180), page by page: no row limit, and no database connection held while a slow client reads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from gateway.api.schemas.pages import PageModel

Format = Literal["json", "csv"]
# A spreadsheet would take a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULAE = ("=", "+", "-", "@", "\t", "\r")
_ROWS_PER_PAGE = 500

NextPage = Callable[[str | None, int], Awaitable[PageModel[Any]]]

# What an operation that answers so adds to its description.
CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


def is_wanted(request: Request, format: Format | None) -> bool:  # noqa: A002 - the name of the parameter
    """By `?format=`, else by what `Accept` names first."""
    if format is not None:
        return format == "csv"
    first = request.headers.get("accept", "").split(",")[0].split(";")[0]
    return first.strip().lower() == "text/csv"


def answer(columns: Sequence[str], next_page: NextPage, *, file_name: str) -> StreamingResponse:
    """The whole list. `next_page` gives the rows after a cursor, so many at most."""
    headers = {"content-disposition": f'attachment; filename="{file_name}"'}
    return StreamingResponse(_lines(columns, next_page), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(columns: Sequence[str], next_page: NextPage) -> AsyncIterator[str]:
    yield _rendered([columns])
    cursor: str | None = None
    while True:
        page = await next_page(cursor, _ROWS_PER_PAGE)
        yield _rendered([_cell(getattr(row, name)) for name in columns] for row in page.data)
        cursor = page.next_cursor
        if cursor is None:
            return


def _rendered(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """NULL is an empty cell."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAE) else value
