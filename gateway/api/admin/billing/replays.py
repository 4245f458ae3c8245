"""Replays of all webhook events that failed, in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import Field

from gateway.api.admin.background_runs import Run, Runs
from gateway.api.admin.billing.webhook_events import replay_webhook_event
from gateway.api.admin.dependencies import ActorDep, DependenciesDep
from gateway.api.checkout import CheckoutService, CheckoutServiceDep, ProviderName
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.pages import PageModel, RequestModel, ShortListQuery, page_of_all
from gateway.api.unit_of_work import UnitOfWork
from gateway.ledger.db.errors import NotFound
from gateway.ledger.payments import webhook_events

router = APIRouter(prefix="/webhook-events/replays", tags=["payments"])

MAX_EVENTS = 10_000
_PER_PAGE = 500


class ReplayRequest(RequestModel):
    provider: ProviderName | None = Field(default=None, description="Events of this provider; null: of all.")


class ReplayRun(Run):
    __doc__ = Run.__doc__

    provider: str | None
    events: int | None = Field(default=None, description=f"How many had failed, {MAX_EVENTS} at most.")
    replayed: int = Field(default=0, description="How many were acted on again so far, the oldest first.")
    failed: int = Field(default=0, description="How many of them failed again.")


def runs_of_process() -> Runs[ReplayRun]:
    return Runs("replay")


def _runs(request: Request) -> Runs[ReplayRun]:
    found: Runs[ReplayRun] = request.app.state.replay_runs
    return found


RunsDep = Annotated[Runs[ReplayRun], Depends(_runs)]


@router.post("", status_code=201, summary="Act on all failed webhook events again", responses=CONFLICTS)
async def begin_replay(
    dependencies: DependenciesDep,
    actor: ActorDep,
    runs: RunsDep,
    checkout_service: CheckoutServiceDep,
    body: Annotated[ReplayRequest | None, Body()] = None,
) -> ReplayRun:
    """It goes on without the caller; `GET` tells how far it is. One at a time. Each event is in the audit log."""
    provider = body.provider if body is not None else None
    unit_of_work = dependencies.unit_of_work.for_actor(actor.name, enclosing=None)
    return runs.start(ReplayRun(provider=provider), _advances(unit_of_work, checkout_service, provider))


@router.get("", summary="List the last replays of this process")
async def list_replays(query: Annotated[ShortListQuery, Query()], runs: RunsDep) -> PageModel[ReplayRun]:
    return page_of_all(runs.newest_first(), query)


@router.get("/{run_id}", summary="See how far a replay is", responses=UNKNOWN)
async def get_replay(run_id: UUID, runs: RunsDep) -> ReplayRun:
    return runs.get(run_id)


@router.post("/{run_id}/cancel", summary="Cancel a replay", responses=UNKNOWN)
async def cancel_replay(run_id: UUID, runs: RunsDep) -> ReplayRun:
    """What was acted on stays so. Canceling again changes nothing."""
    return await runs.cancel(run_id)


async def _advances(
    unit_of_work: UnitOfWork, checkout_service: CheckoutService, provider: str | None
) -> AsyncIterator[Mapping[str, Any]]:
    event_ids = await _failed(unit_of_work, provider)
    failed = 0
    yield {"events": len(event_ids)}
    for number, event_id in enumerate(event_ids, start=1):
        try:
            event = await replay_webhook_event(event_id, unit_of_work, checkout_service)
            failed += event.status == "failed"
        except NotFound:
            pass  # deleted meanwhile
        yield {"replayed": number, "failed": failed}


async def _failed(unit_of_work: UnitOfWork, provider: str | None) -> list[UUID]:
    """Those that have failed by now, the oldest first."""
    found: list[UUID] = []
    cursor = None
    while len(found) < MAX_EVENTS:
        async with unit_of_work.read() as connection:
            page = await webhook_events.list_events(
                connection, provider=provider, status="failed", cursor=cursor, limit=_PER_PAGE
            )
        found += [event.id for event in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    return found[::-1]
