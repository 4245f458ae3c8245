"""What a limit is and what is left of it: windows, and the fields that tell the client.

A window of length W is counted in 60 steps. Summing the current step and the 60 before it bounds every real window of
length W from above, so no window ever sees more than its limit, and a client waits at most W/60 too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policies.model import Plan, Window

STEPS = 60
WINDOW_SECONDS = {Window.MINUTE: 60, Window.HOUR: 3600, Window.DAY: 86400}
WINDOWS = tuple(WINDOW_SECONDS)
STEP_MS = tuple(seconds * 1000 // STEPS for seconds in WINDOW_SECONDS.values())


class Limits(NamedTuple):
    """A plan's limits as the meter takes them: one per window of WINDOWS, and calls in flight. None is no limit.

    `overage` is how far below zero a call may take the balance.
    """

    per_window: tuple[int | None, ...]
    in_flight: int | None
    overage: int = 0


def limits_of(plan: Plan) -> Limits:
    return Limits(
        per_window=(plan.requests_per_minute, plan.requests_per_hour, plan.max_api_calls_per_day),
        in_flight=plan.max_concurrent_requests,
        overage=plan.overage_credits,
    )


def policy_field(limits: Limits) -> bytes:
    """The RateLimit-Policy field (IETF httpapi-ratelimit-headers): a List of quoted names with quota and window."""
    return b", ".join(
        b'"%b";q=%d;w=%d' % (window.encode(), limit, WINDOW_SECONDS[window])
        for window, limit in zip(WINDOWS, limits.per_window, strict=True)
        if limit is not None
    )


def remaining_template(limits: Limits) -> bytes:
    """The RateLimit field of these limits, made once, with a place for each number of `remaining`."""
    return b", ".join(
        b'"%b";r=%%d;t=%%d' % window.encode()
        for window, limit in zip(WINDOWS, limits.per_window, strict=True)
        if limit is not None
    )


def remaining(limits: Limits, used: Sequence[int], reset_seconds: Sequence[int]) -> tuple[int, ...]:
    """For each window with a limit: what remains of it, and the seconds until more does. Given in order of WINDOWS."""
    numbers: list[int] = []
    for window, limit in enumerate(limits.per_window):
        if limit is not None:
            left = limit - used[window]
            numbers += (left if left > 0 else 0, reset_seconds[window])
    return tuple(numbers)
