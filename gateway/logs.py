"""Logs: one JSON object a line on stderr, ours and our libraries' alike."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from gateway.clock import monotonic_seconds

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    # Without local variables: they hold keys, bodies and addresses.
    structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
]


PACE_SECONDS = 10.0


class LogPace:
    """Lets an event that may come with each call be logged once in PACE_SECONDS."""

    def __init__(self) -> None:
        self._due_at: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def unlogged(self, event: str) -> int | None:
        """How many were not logged since the last one that was; None where this one is not to be logged either."""
        instant = monotonic_seconds()
        if instant < self._due_at.get(event, 0.0):
            self._unlogged[event] = self._unlogged.get(event, 0) + 1
            return None
        self._due_at[event] = instant + PACE_SECONDS
        return self._unlogged.pop(event, 0)


def configure(*, role: str, level: int = logging.INFO) -> None:
    """Sets up logging for this process; `role` stands in every line."""
    structlog.contextvars.bind_contextvars(role=role)
    structlog.configure(
        processors=[*_SHARED, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
