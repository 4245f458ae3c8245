"""Logs: one JSON object or one logfmt record a line on stderr, ours and our libraries' alike."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.clock import monotonic_seconds

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
# Exceptions come without local variables: they hold keys, bodies and addresses.
_RENDERERS: dict[str, tuple[Processor, Processor]] = {
    "json": (
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(),
    ),
    "logfmt": (
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), bool_as_flag=False),
    ),
}

PACE_SECONDS = 10.0
# What every logger was made with, so that a change of it reaches those that exist.
_processors: list[Processor] = []


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


class _AtLeast:
    """Drops lines below a level."""

    def __init__(self, level: int) -> None:
        levels = logging.getLevelNamesMapping()
        self._dropped = frozenset(name.lower() for name, number in levels.items() if number < level)

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in self._dropped:
            raise structlog.DropEvent
        return event


def configure(*, role: str, level: int = logging.INFO, form: str = "json") -> None:
    """Sets up logging for this process; `role` stands in every line. `form` is json or logfmt."""
    structlog.contextvars.bind_contextvars(role=role)
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    change(level=level, form=form)


def change(*, level: int, form: str) -> None:
    """The least level and the form of the lines from here on, of all loggers."""
    exceptions, renderer = _RENDERERS[form]
    _processors[:] = [_AtLeast(level), *_SHARED, exceptions, renderer]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, exceptions, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, level))
