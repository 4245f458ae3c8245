"""Reconciliations in the background: begun, seen to advance, and canceled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import Field

from gateway.api.admin.background_runs import Run, Runs
from gateway.api.admin.dependencies import ActorDep, DependenciesDep, ReconciledPage
from gateway.api.admin.records.reconcile import MAX_SHOWN, ReconcileReport, ReconcileRequest, add_page
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.pages import PageModel, ShortListQuery, page_of_all

router = APIRouter(prefix="/reconcile/runs", tags=["reconcile"])


class ReconcileRun(Run):
    __doc__ = Run.__doc__

    repairs: bool
    report: ReconcileReport = Field(description=f"Of the accounts so far; the first {MAX_SHOWN} differences.")


def runs_of_process() -> Runs[ReconcileRun]:
    return Runs("reconciliation")


async def _advances(pages: AsyncIterator[ReconciledPage]) -> AsyncIterator[Mapping[str, Any]]:
    report = NOTHING
    async with aclosing(pages) as opened:  # type: ignore[type-var] # an async generator
        async for page in opened:
            report = add_page(report, page)
            yield {"report": report}


NOTHING = ReconcileReport(accounts=0, hot=0, differences=0, repaired=0, found=[])


def _runs(request: Request) -> Runs[ReconcileRun]:
    found: Runs[ReconcileRun] = request.app.state.reconcile_runs
    return found


RunsDep = Annotated[Runs[ReconcileRun], Depends(_runs)]


@router.post("", status_code=201, summary="Begin a reconciliation", responses=CONFLICTS)
async def begin_run(
    dependencies: DependenciesDep,
    actor: ActorDep,
    runs: RunsDep,
    body: Annotated[ReconcileRequest | None, Body()] = None,
) -> ReconcileRun:
    """It goes on without the caller; `GET` tells how far it is. One at a time."""
    repairs = body is not None and body.repair
    pages = dependencies.reconcile(actor.name if repairs else None)
    return runs.start(ReconcileRun(repairs=repairs, report=NOTHING), _advances(pages))


@router.get("", summary="List the last reconciliations of this process")
async def list_runs(query: Annotated[ShortListQuery, Query()], runs: RunsDep) -> PageModel[ReconcileRun]:
    return page_of_all(runs.newest_first(), query)


@router.get("/{run_id}", summary="See how far a reconciliation is", responses=UNKNOWN)
async def get_run(run_id: UUID, runs: RunsDep) -> ReconcileRun:
    return runs.get(run_id)


@router.post("/{run_id}/cancel", summary="Cancel a reconciliation", responses=UNKNOWN)
async def cancel_run(run_id: UUID, runs: RunsDep) -> ReconcileRun:
    """Differences that it has repaired stay repaired. Canceling again changes nothing."""
    return await runs.cancel(run_id)
