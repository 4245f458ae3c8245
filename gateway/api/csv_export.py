"""Lists as CSV, page by page: no row limit, and no database connection is held while a slow client reads."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

from fastapi import Request
from starlette.responses import StreamingResponse

from gateway.api.schemas.pages import PageModel
from gateway.csv_rows import CsvWriter

Format = Literal["json", "csv"]
_ROWS_PER_PAGE = 500

NextPage = Callable[[str | None, int], Awaitable[PageModel[Any]]]

# The response that operations with CSV add to their description.
CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


def is_requested(request: Request, format: Format | None) -> bool:  # noqa: A002 - the name of the parameter
    """By `?format=`, else by the first media type of `Accept`."""
    if format is not None:
        return format == "csv"
    first = request.headers.get("accept", "").split(",")[0].split(";")[0]
    return first.strip().lower() == "text/csv"


def stream(columns: Sequence[str], next_page: NextPage, *, file_name: str) -> StreamingResponse:
    """The whole list. `next_page` gives at most so many rows after a cursor."""
    headers = {"content-disposition": f'attachment; filename="{file_name}"'}
    return StreamingResponse(_stream(columns, next_page), media_type="text/csv; charset=utf-8", headers=headers)


async def _stream(columns: Sequence[str], next_page: NextPage) -> AsyncIterator[str]:
    yield _render([columns])
    cursor: str | None = None
    while True:
        page = await next_page(cursor, _ROWS_PER_PAGE)
        yield _render([getattr(row, name) for name in columns] for row in page.data)
        cursor = page.next_cursor
        if cursor is None:
            return


def _render(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = CsvWriter(text)
    for row in rows:
        writer.write(row)
    return text.getvalue()
