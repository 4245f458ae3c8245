"""One response of an API, and what a reader must find in it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from policies.usage.counts import MissingReason, Usage, UsageClass


@dataclass(frozen=True, slots=True)
class Case:
    """One response, and what a reader must find in it."""

    name: str
    reader: str
    content_type: bytes
    body: bytes
    usage: Usage | None
    model: str | None = None
    missing: MissingReason | None = None
    is_error: bool = False
    is_complete: bool = True


def used(*, seconds: str | None = None, cost_usd: str | None = None, **counts: int) -> Usage:
    return Usage(
        {UsageClass(name): count for name, count in counts.items()},
        None if seconds is None else Decimal(seconds),
        None if cost_usd is None else Decimal(cost_usd),
    )


# A model can be made to write this; it is text and never counts.
TRAP = 'x "usage": {"total_tokens": 0, "prompt_tokens": 0, "completion_tokens": 0}} \\" [DONE] é😀\u2028'
