"""How fast one subject may do what costs more than a call does: try unknown keys, or fetch stored responses again.

Each process counts by itself. Subjects that have been away longest are forgotten above a bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from uuid import UUID

from gateway.clock import monotonic_seconds
from policies.model import Refusal, Refused

MAX_SUBJECTS = 10_000


class Pace:
    """A bucket of tokens for each subject: `burst` at first, and `per_second` more, never above the burst."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def allows(self, subject: Hashable) -> bool:
        """Whether there is a token; takes none."""
        return subject not in self._buckets or self._tokens(subject) >= 1

    def take(self, subject: Hashable) -> bool:
        """Takes a token; False where there is none."""
        tokens = self._tokens(subject)
        if tokens < 1:
            return False
        self._keep(subject, tokens - 1)
        return True

    def give_back(self, subject: Hashable) -> None:
        if subject in self._buckets:
            self._keep(subject, min(self._burst, self._tokens(subject) + 1))

    def _tokens(self, subject: Hashable) -> float:
        tokens, at = self._buckets.get(subject, (self._burst, monotonic_seconds()))
        return min(self._burst, tokens + (monotonic_seconds() - at) * self._per_second)

    def _keep(self, subject: Hashable, tokens: float) -> None:
        self._buckets[subject] = tokens, monotonic_seconds()
        self._buckets.move_to_end(subject)
        if len(self._buckets) > MAX_SUBJECTS:
            self._buckets.popitem(last=False)


class ReplayPace:
    """Stored responses are replayed without a call, so no window of a plan counts them: these do.

    An account has a pace of its own, and all of them together have one, so that many cannot do what one may not.
    """

    def __init__(self) -> None:
        self._by_account = Pace(burst=60, per_second=2.0)
        self._of_all = Pace(burst=600, per_second=100.0)

    def check(self, account_id: UUID) -> None:
        """Raises Refused for an account that has repeated too many calls lately."""
        if not self._by_account.allows(account_id):
            raise _repeats_too_often()

    def count(self, account_id: UUID) -> None:
        """Counts a call that was repeated; raises Refused for one too many."""
        if not (self._by_account.take(account_id) and self._of_all.take(None)):
            raise _repeats_too_often()


def _repeats_too_often() -> Refused:
    return Refused(
        Refusal.RATE_LIMITED,
        "Calls with an Idempotency-Key are repeated too often; retry in 1 s.",
        violated_policies=(),
        retry_after=1,
    )
