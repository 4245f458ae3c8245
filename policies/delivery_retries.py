"""When a delivery that failed is tried again: soon, then ever later, for three days."""

from __future__ import annotations

# After each attempt, in seconds: the schedule that Standard Webhooks recommends ("Retry schedule").
_DELAYS_SECONDS = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)


def delay_seconds(attempts: int, *, chance: float) -> float | None:
    """How long to wait after so many attempts; None where it was the last.

    `chance` in [0, 1) makes it up to a tenth longer, so that what failed together does not come back together.
    """
    if attempts > len(_DELAYS_SECONDS):
        return None
    return _DELAYS_SECONDS[attempts - 1] * (1 + chance / 10)
