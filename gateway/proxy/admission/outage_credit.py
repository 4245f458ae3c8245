"""Outage credit: calls that are admitted while Redis is away, up to a few credits an account, where that is allowed.

The plan or the configuration allows it. Each process counts for itself: credits of calls that Redis has not settled
yet, and calls within the plan's windows. The last admission by Redis still counts: an account gets no more than the
balance it left, and no more than the windows had room for. Such calls have no hold; they are settled from the spool, by
the prefixes of their records.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.meter.admissions import Admission
from gateway.meter.replies import Verdict
from policies.access.limits import WINDOW_SECONDS, WINDOWS, Limits
from policies.model import Plan

FEATURE = "outage_float"  # the plan's feature that says how many credits; 0 refuses
MAX_ACCOUNTS = 100_000
_STEP = 1 + 1 / 60  # a window of the meter counts up to one step more


@dataclass(slots=True)
class _Account:
    """`last` is the last admission by Redis; `calls` are the moments of calls since, as far as a limit needs them.

    `holds` are of calls that Redis has not settled, `in_flight` those that have not ended.
    """

    last: Admission | None = None
    last_at: float = 0.0
    holds: dict[str, int] = field(default_factory=dict)
    in_flight: set[str] = field(default_factory=set)
    calls: deque[float] = field(default_factory=deque)

    def has_room(self, limits: Limits, now: float) -> bool:
        if limits.in_flight is not None and len(self.in_flight) >= limits.in_flight:
            return False
        used = zip(self.used(now), limits.per_window, strict=True)
        return all(limit is None or count < limit for count, limit in used)

    def used(self, now: float) -> tuple[int, ...]:
        """The calls in each window: those of the last admission by Redis, and those since."""
        before = self.last.used if self.last is not None else (0,) * len(WINDOWS)
        spans = [WINDOW_SECONDS[window] * _STEP for window in WINDOWS]
        return tuple(
            (count if now - self.last_at < span else 0) + sum(now - call < span for call in self.calls)
            for count, span in zip(before, spans, strict=True)
        )

    def balance(self, allowance: int) -> int:
        """What is left of an allowance, and of the balance that Redis last knew."""
        most = allowance if self.last is None else min(allowance, self.last.balance)
        return most - sum(self.holds.values())

    def add(self, request_id: str, amount: int, *, limits: Limits, now: float) -> None:
        self.holds[request_id] = amount
        self.in_flight.add(request_id)
        self.calls.append(now)
        if len(self.calls) > max((limit for limit in limits.per_window if limit is not None), default=0):
            self.calls.popleft()


class OutageCredit:
    """`credits` for an account whose plan does not set the feature; None refuses."""

    def __init__(self, credits: int | None, *, monotonic: Callable[[], float] = monotonic_seconds) -> None:
        self._credits = credits
        self._monotonic = monotonic
        self._accounts: OrderedDict[UUID, _Account] = OrderedDict()
        self._account_ids: dict[str, UUID] = {}  # by request id

    def record_admission(self, account_id: UUID, plan: Plan, admission: Admission) -> None:
        """Remembers what Redis said of an account when it last admitted a call."""
        if (self._credits or FEATURE in plan.features) and self._allowance(plan):
            account = self._account(account_id)
            account.last, account.last_at = admission, self._monotonic()
            if not account.holds:
                account.calls.clear()  # Redis has settled them, and counts them by now

    def admit(
        self, account_id: UUID, request_id: str, *, plan: Plan, limits: Limits, amount: int, required: int
    ) -> Admission | None:
        """An admission by this process alone, which has no epoch; None where there is no room for the call."""
        allowance = self._allowance(plan)
        if not allowance:
            return None
        account, now = self._account(account_id), self._monotonic()
        balance = account.balance(allowance)
        if balance < max(amount, required) or not account.has_room(limits, now):
            return None
        account.add(request_id, amount, limits=limits, now=now)
        self._account_ids[request_id] = account_id
        metrics.OUTAGE_CREDIT_CALLS.inc()
        self._update_gauge()
        resets = tuple(WINDOW_SECONDS[window] for window in WINDOWS)
        return Admission(Verdict.ADMITTED, balance - amount, account.used(now), resets)

    def record_end(self, request_id: str) -> None:
        """The call has ended. Its credits stay taken until Redis has settled it."""
        account_id = self._account_ids.get(request_id)
        if account_id is not None:
            self._accounts[account_id].in_flight.discard(request_id)

    def release(self, request_id: str) -> None:
        """Gives the credits of a call free, once Redis has settled it."""
        account_id = self._account_ids.pop(request_id, None)
        if account_id is not None:
            self._accounts[account_id].in_flight.discard(request_id)
            self._accounts[account_id].holds.pop(request_id, None)
            self._update_gauge()

    def _allowance(self, plan: Plan) -> int:
        feature = plan.features.get(FEATURE)
        if isinstance(feature, int) and not isinstance(feature, bool):
            return max(0, feature)
        return self._credits or 0

    def _account(self, account_id: UUID) -> _Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = _Account()
            self._evict_oldest()
        return account

    def _evict_oldest(self) -> None:
        if len(self._accounts) > MAX_ACCOUNTS:
            oldest = next((each for each, account in self._accounts.items() if not account.holds), None)
            if oldest is not None:
                del self._accounts[oldest]

    def _update_gauge(self) -> None:
        metrics.OUTAGE_CREDIT_UNSETTLED.set(len(self._account_ids))
