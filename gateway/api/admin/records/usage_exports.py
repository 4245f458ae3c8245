"""Exports of usage in the background, as files that are there for download once they are whole."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TextIO
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import Field
from starlette.responses import FileResponse

from gateway.api.admin.background_runs import Run, Runs, RunState
from gateway.api.admin.dependencies import DependenciesDep
from gateway.api.admin.records.usage import ROW_COLUMNS
from gateway.api.errors import Conflict, Invalid
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.fields import Instant, Line
from gateway.api.schemas.pages import PageModel, RequestModel, ShortListQuery, page_of_all
from gateway.api.unit_of_work import UnitOfWork
from gateway.clock import now
from gateway.csv_rows import CsvWriter
from gateway.ledger.usage import history
from gateway.ledger.usage.history import UsageFilter
from policies.model import Outcome

router = APIRouter(prefix="/usage/exports", tags=["usage"])

MAX_FILES = 5
MAX_BYTES = 2 * 1024**3
DEFAULT_SPAN = timedelta(days=30)
_KEPT = timedelta(days=1)
# A page takes the loop some 10 ms, which the pages of customers wait for too.
_ROWS_PER_PAGE = 500
_FILE = "usage.csv.gz"


class UsageExportRequest(RequestModel):
    since: Instant | None = Field(default=None, alias="from", description="From this instant on; null: 30 days.")
    until: Instant | None = Field(default=None, alias="to", description="Before this instant; null: until now.")
    user_id: UUID | None = None
    endpoint: Line | None = Field(default=None, description="The route's name.")
    model: Line | None = None
    plan_id: Line | None = None
    outcome: Outcome | None = None


class UsageExport(Run):
    """An export of this process, which keeps the last ones with their files until it ends."""

    since: datetime
    until: datetime
    rows: int = Field(default=0, description="How many are written so far.")
    bytes: int = Field(default=0, description="Of the file, compressed by gzip.")
    reached: datetime | None = Field(default=None, description="Rows are written newest first, down to here so far.")
    share: float = Field(default=0.0, description="How much of the span that is, from 0 to 1.")


class ExportTooLargeError(OSError):
    """The file has reached its bound; `gateway usage export` has none."""


class UsageExports:
    """The exports of a process, and the files of those that are done, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.runs: Runs[UsageExport] = Runs("export", max_runs=MAX_FILES, forget=self._remove)

    def start(self, run: UsageExport, unit_of_work: UnitOfWork, wanted: UsageFilter) -> UsageExport:
        """Raises Conflict while another one runs."""
        return self.runs.start(run, self._advances(run, unit_of_work, wanted))

    def file(self, run_id: UUID) -> tuple[UsageExport, Path]:
        """Raises NotFound; Conflict for one that is not whole."""
        run = self.runs.get(run_id)
        if run.state is not RunState.DONE:
            raise Conflict(f"The export is {run.state}; its file is there once it is done.")
        return run, self._path(run)

    async def _advances(
        self, run: UsageExport, unit_of_work: UnitOfWork, wanted: UsageFilter
    ) -> AsyncIterator[Mapping[str, Any]]:
        """The file has its name once it is whole; one that is not is removed."""
        self._remove_old()
        path = self._path(run)
        path.parent.mkdir(parents=True, mode=0o700)
        partial = path.with_suffix(".part")
        try:
            with gzip.open(partial, "wt", encoding="utf-8", newline="", compresslevel=5) as stream:
                async for rows, reached in _written(stream, unit_of_work, wanted):
                    size = partial.stat().st_size
                    if size > MAX_BYTES:
                        raise ExportTooLargeError(f"the file has more than {MAX_BYTES} bytes")
                    share = (run.until - reached) / (run.until - run.since)
                    yield {"rows": rows, "bytes": size, "reached": reached, "share": round(share, 4)}
            if partial.stat().st_size > MAX_BYTES:
                raise ExportTooLargeError(f"the file has more than {MAX_BYTES} bytes")
            partial.replace(path)
            yield {"bytes": path.stat().st_size, "reached": run.since, "share": 1.0}
        finally:
            if not path.exists():
                self._remove(run)

    def _path(self, run: UsageExport) -> Path:
        return self._folder / str(run.id) / _FILE

    def _remove(self, run: UsageExport) -> None:
        shutil.rmtree(self._path(run).parent, ignore_errors=True)

    def _remove_old(self) -> None:
        """Files that another process has left behind."""
        known = {str(run.id) for run in self.runs.newest_first()}
        for folder in self._folder.glob("*-*-*-*-*"):
            if folder.name not in known and folder.stat().st_mtime < now().timestamp() - _KEPT.total_seconds():
                shutil.rmtree(folder, ignore_errors=True)


async def _written(
    stream: TextIO, unit_of_work: UnitOfWork, wanted: UsageFilter
) -> AsyncIterator[tuple[int, datetime]]:
    """Writes page by page; gives how many rows there are, and down to which instant. Holds no connection meanwhile."""
    writer, rows, cursor = CsvWriter(stream), 0, None
    writer.write(ROW_COLUMNS)
    while True:
        async with unit_of_work.read() as connection:
            page = await history.list_usage(connection, wanted, cursor=cursor, limit=_ROWS_PER_PAGE)
        for row in page.data:
            writer.write(getattr(row, name) for name in ROW_COLUMNS)
        rows, cursor = rows + len(page.data), page.next_cursor
        if page.data:
            yield rows, page.data[-1].created_at
        if cursor is None:
            return


def _exports(request: Request) -> UsageExports:
    found: UsageExports = request.app.state.usage_exports
    return found


ExportsDep = Annotated[UsageExports, Depends(_exports)]


@router.post("", status_code=201, summary="Begin an export of usage", responses=CONFLICTS)
async def begin_export(
    exports: ExportsDep, dependencies: DependenciesDep, body: Annotated[UsageExportRequest | None, Body()] = None
) -> UsageExport:
    """All calls of the span, as CSV. It goes on without the caller; `GET` tells how far it is. One at a time."""
    wanted = (body or UsageExportRequest()).model_dump()
    until = wanted["until"] or now()
    since = wanted["since"] or until - DEFAULT_SPAN
    if since >= until:
        raise Invalid("from", "must be before `to`")
    usage_filter = UsageFilter(**{**wanted, "since": since, "until": until})
    return exports.start(UsageExport(since=since, until=until), dependencies.unit_of_work, usage_filter)


@router.get("", summary="List the last exports of this process")
async def list_exports(query: Annotated[ShortListQuery, Query()], exports: ExportsDep) -> PageModel[UsageExport]:
    return page_of_all(exports.runs.newest_first(), query)


@router.get("/{run_id}", summary="See how far an export is", responses=UNKNOWN)
async def get_export(run_id: UUID, exports: ExportsDep) -> UsageExport:
    return exports.runs.get(run_id)


@router.post("/{run_id}/cancel", summary="Cancel an export", responses=UNKNOWN)
async def cancel_export(run_id: UUID, exports: ExportsDep) -> UsageExport:
    """Its file is removed. Canceling one that has ended changes nothing."""
    return await exports.runs.cancel(run_id)


@router.get(
    "/{run_id}/file",
    summary="Download an export",
    response_class=FileResponse,
    responses={200: {"content": {"application/gzip": {}}}} | UNKNOWN | CONFLICTS,
)
async def download_export(run_id: UUID, exports: ExportsDep) -> FileResponse:
    run, path = exports.file(run_id)
    name = f"usage-{run.since:%Y-%m-%d}-{run.until:%Y-%m-%d}.csv.gz"
    return FileResponse(path, media_type="application/gzip", filename=name)
