"""What cannot be worked on is set aside for a while, so that it holds up nothing behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway import metrics
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.subscriptions.subscriptions import IllegalTransition

# What one account's data can raise. An outage is none of it: that ends the batch, and is everybody's.
FAILURES = (
    NotFound,
    AlreadyExists,
    InUse,
    InvalidValue,
    IllegalTransition,
    SQLAlchemyError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
)

FIRST_PAUSE = timedelta(minutes=1)
LAST_PAUSE = timedelta(hours=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Set:
    until: datetime
    pause: timedelta


class Parking:
    """For one worker; forgotten when its process ends. What is set aside is tried again, ever more rarely."""

    def __init__(self, worker: str, now: Callable[[], datetime]) -> None:
        self._gauge = metrics.PARKED.labels(worker)
        self._worker = worker
        self._now = now
        self._parked: dict[UUID, _Set] = {}

    def parked(self) -> list[UUID]:
        """What is not to be touched yet."""
        now = self._now()
        return [each for each, held in self._parked.items() if now < held.until]

    def failed(self, which: UUID, error: BaseException) -> None:
        before = self._parked.get(which)
        pause = FIRST_PAUSE if before is None else min(before.pause * 2, LAST_PAUSE)
        self._parked[which] = _Set(self._now() + pause, pause)
        self._gauge.set(len(self._parked))
        log.error("set_aside", worker=self._worker, id=str(which), minutes=pause // FIRST_PAUSE, exc_info=error)

    def passed(self, which: UUID) -> None:
        if self._parked.pop(which, None) is not None:
            self._gauge.set(len(self._parked))
