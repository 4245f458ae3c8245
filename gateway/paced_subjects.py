"""How far each subject is along its pace, kept in this process: for what must be decided before any store is asked.

Each process counts by itself. Subjects that have been away longest are forgotten above a bound.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable

from gateway.clock import monotonic_seconds
from policies.access import throttling
from policies.access.throttling import Pace

MAX_SUBJECTS = 10_000


class PacedSubjects:
    """Subjects that all have one pace."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._free_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._free_at)

    def is_free(self, subject: Hashable) -> bool:
        """Whether an attempt may be made; counts none."""
        return self._after_one_more(subject, monotonic_seconds()) is not None

    def take(self, subject: Hashable) -> bool:
        """Counts an attempt; False, and counts none, where it has to wait."""
        now = monotonic_seconds()
        ahead_seconds = self._after_one_more(subject, now)
        if ahead_seconds is None:
            return False
        self._free_at[subject] = now + ahead_seconds
        self._free_at.move_to_end(subject)
        if len(self._free_at) > MAX_SUBJECTS:
            self._free_at.popitem(last=False)
        return True

    def give_back(self, subject: Hashable) -> None:
        """Takes an attempt back."""
        if subject in self._free_at:
            self._free_at[subject] -= self._pace.seconds_each

    def _after_one_more(self, subject: Hashable, now: float) -> float | None:
        return throttling.take(self._free_at.get(subject, -math.inf) - now, self._pace)
