"""Reconciliations in the background: begun, seen to advance, and canceled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

import structlog
from fastapi import APIRouter, Body, Depends, Request
from pydantic import Field

from gateway.api.admin.dependencies import ActorDep, DependenciesDep, ReconciledPage
from gateway.api.admin.records.reconcile import MAX_SHOWN, ReconcileReport, ReconcileRequest, add_page
from gateway.api.errors import Conflict
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.pages import PageModel, ResponseModel
from gateway.clock import now
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.meter.client.errors import MeterError, MeterUnavailable

router = APIRouter(prefix="/reconcile/runs", tags=["reconcile"])

MAX_RUNS = 20
_log = structlog.get_logger()


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    CANCELED = "canceled"
    FAILED = "failed"


class ReconcileRun(ResponseModel):
    """A run of this process, which keeps the last ones until it ends; another process has its own."""

    id: UUID
    state: RunState
    repairs: bool
    started_at: datetime
    ended_at: datetime | None
    report: ReconcileReport = Field(description=f"Of the accounts so far; the first {MAX_SHOWN} differences.")


class Runs:
    """The runs of a process, one at a time."""

    def __init__(self) -> None:
        self._runs: dict[UUID, ReconcileRun] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, pages: AsyncIterator[ReconciledPage], *, repairs: bool) -> ReconcileRun:
        """Raises Conflict while another one runs."""
        if self._task is not None and not self._task.done():
            raise Conflict("A reconciliation is running; cancel it, or wait for its end.")
        report = ReconcileReport(accounts=0, hot=0, differences=0, repaired=0, found=[])
        run = ReconcileRun(
            id=uuid4(), state=RunState.RUNNING, repairs=repairs, started_at=now(), ended_at=None, report=report
        )
        self._runs[run.id] = run
        for oldest in list(self._runs)[:-MAX_RUNS]:
            del self._runs[oldest]
        self._task = asyncio.get_running_loop().create_task(self._work(run.id, pages))
        return run

    def get(self, run_id: UUID) -> ReconcileRun:
        """Raises NotFound."""
        if run_id not in self._runs:
            raise NotFound("reconciliation", run_id)
        return self._runs[run_id]

    def newest_first(self) -> list[ReconcileRun]:
        return list(reversed(self._runs.values()))

    async def cancel(self, run_id: UUID) -> ReconcileRun:
        """Ends it after the accounts that it has compared; what is repaired stays. A run that has ended stays so."""
        if self.get(run_id).state is RunState.RUNNING and self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._end(run_id, RunState.CANCELED)
        return self.get(run_id)

    async def _work(self, run_id: UUID, pages: AsyncIterator[ReconciledPage]) -> None:
        try:
            async with aclosing(pages) as opened:  # type: ignore[type-var] # an async generator
                async for page in opened:
                    self._change(run_id, report=add_page(self._runs[run_id].report, page))
        except (DatabaseUnavailable, MeterUnavailable, MeterError) as error:
            _log.warning("reconciliation_failed", reason=str(error))
            self._end(run_id, RunState.FAILED)
        else:
            self._end(run_id, RunState.DONE)

    def _end(self, run_id: UUID, state: RunState) -> None:
        if self._runs[run_id].state is RunState.RUNNING:
            self._change(run_id, state=state, ended_at=now())

    def _change(self, run_id: UUID, **changes: Any) -> None:
        self._runs[run_id] = self._runs[run_id].model_copy(update=changes)


def _runs(request: Request) -> Runs:
    found: Runs = request.app.state.reconcile_runs
    return found


RunsDep = Annotated[Runs, Depends(_runs)]


@router.post("", status_code=201, summary="Begin a reconciliation", responses=CONFLICTS)
async def begin_run(
    dependencies: DependenciesDep,
    actor: ActorDep,
    runs: RunsDep,
    body: Annotated[ReconcileRequest | None, Body()] = None,
) -> ReconcileRun:
    """It goes on without the caller; `GET` tells how far it is. One at a time."""
    repairs = body is not None and body.repair
    return runs.start(dependencies.reconcile(actor.name if repairs else None), repairs=repairs)


@router.get("", summary="List the last reconciliations of this process")
async def list_runs(runs: RunsDep) -> PageModel[ReconcileRun]:
    return PageModel[ReconcileRun](data=runs.newest_first(), next_cursor=None)


@router.get("/{run_id}", summary="See how far a reconciliation is", responses=UNKNOWN)
async def get_run(run_id: UUID, runs: RunsDep) -> ReconcileRun:
    return runs.get(run_id)


@router.post("/{run_id}/cancel", summary="Cancel a reconciliation", responses=UNKNOWN)
async def cancel_run(run_id: UUID, runs: RunsDep) -> ReconcileRun:
    """Differences that it has repaired stay repaired. Canceling again changes nothing."""
    return await runs.cancel(run_id)
