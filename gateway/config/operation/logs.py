"""The `log` section of gateway.yaml: what is logged, and how."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.quantities import Amount, Kind, about

# What the line of a request says unless told otherwise, in this order.
DEFAULT_FIELDS = (*("at", "request_id", "endpoint", "method", "status", "code", "ms", "upstream_ms", "credits", "key"),)
MORE_FIELDS = (
    *("timestamp", "level", "client", "path", "user_id", "key_id", "plan", "upstream"),
    *("request_bytes", "response_bytes"),
)


def _fields(value: object) -> tuple[str, ...]:
    written = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    known = (*DEFAULT_FIELDS, *MORE_FIELDS)
    if not isinstance(written, list | tuple) or not written or not set(map(str, written)) <= set(known):
        raise ValueError(f"must be a list of some of {', '.join(known)}")
    if len(set(written)) < len(written):
        raise ValueError("names a field twice")
    return tuple(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Kind("`debug`, `info`, `warning` or `error`"),
        about("Least level that is logged; the lines of requests are of level info."),
    ] = "info"
    format: Annotated[
        Literal["json", "logfmt"], Kind("`json` or `logfmt`"), about("Form of a line: a JSON object, or key=value.")
    ] = "json"
    fields: Annotated[
        tuple[str, ...],
        BeforeValidator(_fields),
        Kind(f"list of fields; besides the default ones {', '.join(MORE_FIELDS)}"),
        about("What the line of a request says, in this order. `path` is that of routes, without its query."),
    ] = DEFAULT_FIELDS
    successes: Annotated[
        Amount,
        Field(le=1),
        about("Share of the successful requests that have a line, 0 to 1; all others have one."),
    ] = Decimal(1)

    @property
    def level_number(self) -> int:
        return logging.getLevelNamesMapping()[self.level.upper()]

    @property
    def has_requests(self) -> bool:
        """Whether requests have lines at all."""
        return self.level_number <= logging.INFO

    @property
    def is_default_for_requests(self) -> bool:
        return self.has_requests and self.format == "json" and self.fields == DEFAULT_FIELDS and self.successes == 1
