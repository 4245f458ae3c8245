"""What is served while Redis is away, for those whose plan or configuration says so: up to a few credits an account.

Each process counts for itself: credits held and not settled in Redis yet, and calls within the plan's windows. What an
admission has said before the outage still counts: nobody gets more than the balance that was left, or than the windows
had room for. Such calls have no hold; they are settled from the spool, by the heads of their records.
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

FLOATING = "float"  # in place of an epoch, which is never named so
FEATURE = "outage_float"  # the plan's feature that says how many credits; 0 refuses
MAX_ACCOUNTS = 100_000
_STEP = 1 + 1 / 60  # a window of the meter counts up to one step more


@dataclass(slots=True)
class _Account:
    """`seen` is the last admission by Redis. `calls` are the moments of calls since, as far as a limit needs them."""

    seen: Admission | None = None
    seen_at: float = 0.0
    held: dict[str, int] = field(default_factory=dict)
    calls: deque[float] = field(default_factory=deque)

    def has_room(self, limits: Limits, now: float) -> bool:
        used = self.seen.used if self.seen is not None else (0,) * len(WINDOWS)
        if limits.in_flight is not None and len(self.held) >= limits.in_flight:
            return False
        for window, limit, before in zip(WINDOWS, limits.per_window, used, strict=True):
            seconds = WINDOW_SECONDS[window] * _STEP
            still = before if now - self.seen_at < seconds else 0
            if limit is not None and still + sum(now - call < seconds for call in self.calls) >= limit:
                return False
        return True


class Float:
    """`credits` for an account whose plan says nothing of it; None refuses."""

    def __init__(self, credits: int | None, *, monotonic: Callable[[], float] = monotonic_seconds) -> None:
        self._credits = credits
        self._monotonic = monotonic
        self._accounts: OrderedDict[UUID, _Account] = OrderedDict()
        self._whose: dict[str, UUID] = {}

    def saw(self, account_id: UUID, plan: Plan, admission: Admission) -> None:
        """Redis has admitted a call of the account."""
        if self._allowed(plan):
            account = self._account(account_id)
            account.seen, account.seen_at = admission, self._monotonic()

    def take(
        self, account_id: UUID, request_id: str, *, plan: Plan, limits: Limits, amount: int, required: int
    ) -> Admission | None:
        """An admission by this process alone; None where there is no room for the call."""
        allowed = self._allowed(plan)
        if not allowed:
            return None
        account, now = self._account(account_id), self._monotonic()
        if account.seen is not None:
            allowed = min(allowed, account.seen.balance)
        left = allowed - sum(account.held.values())
        if left < max(amount, required) or not account.has_room(limits, now):
            return None
        account.held[request_id] = amount
        self._whose[request_id] = account_id
        account.calls.append(now)
        if len(account.calls) > max((limit for limit in limits.per_window if limit is not None), default=0):
            account.calls.popleft()
        metrics.FLOAT_CALLS.inc()
        self._show()
        used = tuple(sum(now - call < WINDOW_SECONDS[window] for call in account.calls) for window in WINDOWS)
        resets = tuple(WINDOW_SECONDS[window] for window in WINDOWS)
        return Admission(Verdict.ADMITTED, left - amount, used, resets, epoch=FLOATING)

    def settled(self, request_id: str) -> None:
        """Redis has taken the settlement of a call."""
        account_id = self._whose.pop(request_id, None)
        if account_id is not None:
            self._accounts[account_id].held.pop(request_id, None)
            self._show()

    def _allowed(self, plan: Plan) -> int:
        of_plan = plan.features.get(FEATURE)
        if isinstance(of_plan, int) and not isinstance(of_plan, bool):
            return max(0, of_plan)
        return self._credits or 0

    def _account(self, account_id: UUID) -> _Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = _Account()
            self._forget_oldest()
        return account

    def _forget_oldest(self) -> None:
        if len(self._accounts) > MAX_ACCOUNTS:
            oldest = next((each for each, account in self._accounts.items() if not account.held), None)
            if oldest is not None:
                del self._accounts[oldest]

    def _show(self) -> None:
        metrics.FLOAT_UNSETTLED.set(len(self._whose))
