"""Quarantines items on which a worker fails, so that they do not block the others."""

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

# What one account's data can raise. An outage is not among them: it concerns all items and ends the batch.
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

INITIAL_PAUSE = timedelta(minutes=1)
MAX_PAUSE = timedelta(hours=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    until: datetime
    pause: timedelta


class Quarantine:
    """One worker's quarantine, in memory. Each failure doubles an item's pause, up to an hour."""

    def __init__(self, worker: str, now: Callable[[], datetime]) -> None:
        self._gauge = metrics.QUARANTINED.labels(worker)
        self._worker = worker
        self._now = now
        self._entries: dict[UUID, _Entry] = {}

    def quarantined(self) -> list[UUID]:
        """The items whose pause has not passed."""
        now = self._now()
        return [item for item, entry in self._entries.items() if now < entry.until]

    def record_failure(self, item: UUID, error: BaseException) -> None:
        before = self._entries.get(item)
        pause = INITIAL_PAUSE if before is None else min(before.pause * 2, MAX_PAUSE)
        self._entries[item] = _Entry(self._now() + pause, pause)
        self._gauge.set(len(self._entries))
        log.error(
            "item_quarantined",
            worker=self._worker,
            id=str(item),
            pause_seconds=int(pause.total_seconds()),
            exc_info=error,
        )

    def record_success(self, item: UUID) -> None:
        if self._entries.pop(item, None) is not None:
            self._gauge.set(len(self._entries))
