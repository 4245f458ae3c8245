"""Long work in the background: begun, seen to advance, and canceled. Each process keeps its own last runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

import structlog
from pydantic import Field

from gateway.api.errors import Conflict
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.meter.client.errors import MeterError, MeterUnavailable

MAX_RUNS = 20
# What ends a run as failed; anything else is a fault, which the log has with its traceback.
_FAILURES = (DatabaseUnavailable, MeterUnavailable, MeterError, OSError)
_log = structlog.get_logger()


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    CANCELED = "canceled"
    FAILED = "failed"


class Run(ResponseModel):
    """A run of this process, which keeps the last ones until it ends; another process has its own."""

    id: UUID = Field(default_factory=uuid4)
    state: RunState = RunState.RUNNING
    started_at: datetime = Field(default_factory=now)
    ended_at: datetime | None = None


R = TypeVar("R", bound=Run)


class Runs(Generic[R]):
    """The runs of one kind in a process, one at a time. `forget` is called with each that is not kept any more."""

    def __init__(self, kind: str, *, max_runs: int = MAX_RUNS, forget: Callable[[R], None] | None = None) -> None:
        self._kind = kind
        self._max_runs = max_runs
        self._forget = forget
        self._runs: dict[UUID, R] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, run: R, advances: AsyncIterator[Mapping[str, Any]]) -> R:
        """Each of `advances` changes fields of the run. Raises Conflict while another one runs."""
        if self._task is not None and not self._task.done():
            raise Conflict(f"Another {self._kind} is running; cancel it, or wait for its end.")
        self._runs[run.id] = run
        for oldest in list(self._runs)[: -self._max_runs]:
            gone = self._runs.pop(oldest)
            if self._forget is not None:
                self._forget(gone)
        self._task = asyncio.get_running_loop().create_task(self._work(run.id, advances))
        return run

    def get(self, run_id: UUID) -> R:
        """Raises NotFound."""
        if run_id not in self._runs:
            raise NotFound(self._kind, run_id)
        return self._runs[run_id]

    def newest_first(self) -> list[R]:
        return list(reversed(self._runs.values()))

    async def cancel(self, run_id: UUID) -> R:
        """Ends it where it is; what it has done stays. A run that has ended stays so."""
        if self.get(run_id).state is RunState.RUNNING and self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._end(run_id, RunState.CANCELED)
        return self.get(run_id)

    async def _work(self, run_id: UUID, advances: AsyncIterator[Mapping[str, Any]]) -> None:
        state = RunState.FAILED
        try:
            async with aclosing(advances) as opened:  # type: ignore[type-var] # an async generator
                async for changes in opened:
                    self._change(run_id, **changes)
            state = RunState.DONE
        except _FAILURES as error:
            _log.warning("background_run_failed", kind=self._kind, reason=str(error))
        except asyncio.CancelledError:
            state = RunState.CANCELED
            raise
        finally:
            self._end(run_id, state)

    def _end(self, run_id: UUID, state: RunState) -> None:
        if self._runs[run_id].state is RunState.RUNNING:
            self._change(run_id, state=state, ended_at=now())

    def _change(self, run_id: UUID, **changes: Any) -> None:
        self._runs[run_id] = self._runs[run_id].model_copy(update=changes)
