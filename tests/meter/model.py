"""What the scripts must do, said as simply as possible: plain lists of moments instead of rings of buckets.

Judged by the definition in `policies/access/limits.py`: a window is the current step and the 60 before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

from gateway.meter.admissions import Admission
from gateway.meter.meter import CLOCK_SKEW_MS
from gateway.meter.replies import CreditChangeResult, LoadResult, Verdict
from policies.access.key_budgets import Cap
from policies.access.limits import STEPS, WINDOW_SECONDS, WINDOWS, Limits
from policies.model import Window

MINUTE_MS = WINDOW_SECONDS[Window.MINUTE] * 1000
MAX_LEAD_MS = 60_000  # of an account's clock, before it is given up


def step_ms(window: Window) -> int:
    return WINDOW_SECONDS[window] * 1000 // STEPS


def seconds_up(milliseconds: int) -> int:
    return -(-milliseconds // 1000)


@dataclass
class Account:
    """An account as Redis should have it; `is_loaded` False with only versions noted."""

    is_loaded: bool = False
    version: int | None = None
    credit_seq: int = 0
    balance: int = 0
    in_flight: int = 0
    clock_ms: int = 0
    counted: dict[UUID, tuple[int, tuple[UUID, ...]]] = field(default_factory=dict)  # since, by budget, and whose calls
    admitted_ms: list[int] = field(default_factory=list)

    def live(self, window: Window, now_ms: int) -> list[int]:
        """The moments of the admissions that count in a window, oldest first."""
        oldest_step = now_ms // step_ms(window) - STEPS
        return [moment for moment in self.admitted_ms if moment // step_ms(window) >= oldest_step]

    def leaves_ms(self, window: Window, moment: int) -> int:
        """When an admission stops counting."""
        return (moment // step_ms(window) + STEPS + 1) * step_ms(window)


@dataclass
class Model:
    """One partition."""

    accounts: dict[str, Account]
    catalogue: int | None = None
    holds: dict[str, tuple[str, int]] = field(default_factory=dict)
    swept: dict[str, str] = field(default_factory=dict)
    journal: list[tuple[str, str, int | None]] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)
    calls: dict[str, tuple[str, int]] = field(default_factory=dict)  # whose, and when by the clock that dates it
    keys: dict[str, UUID] = field(default_factory=dict)  # by which key a call was admitted

    def now_ms(self, name: str, clock_ms: int) -> int:
        return max(self.accounts[name].clock_ms, clock_ms)

    def load(
        self, name: str, *, clock_ms: int, version: int, credit_seq: int, balance: int, catalogue: int
    ) -> LoadResult:
        """`balance` is what PostgreSQL has, which no entry of the journal has reached."""
        account = self.accounts[name]
        if not account.is_loaded:
            if (account.version or 0) > version or account.credit_seq > credit_seq:
                return LoadResult.STALE_SNAPSHOT
            held = [amount for whose, amount in self.holds.values() if whose == name]
            account = Account(is_loaded=True, credit_seq=credit_seq, in_flight=len(held), clock_ms=clock_ms)
            account.balance = balance - sum(held) - self.pending_charges(name)
            account.admitted_ms = sorted(min(clock_ms, moment + CLOCK_SKEW_MS) for moment in self.moments(name))
            self.accounts[name] = account
        account.version = max(account.version or version, version)
        self.catalogue = max(self.catalogue or catalogue, catalogue)
        return LoadResult.LOADED

    def pending_charges(self, name: str) -> int:
        """What the journal charges the account."""
        return sum(credits for request_id, credits in self.charged.items() if self.calls[request_id][0] == name)

    def spent(self, since: int, keys: Collection[UUID]) -> int:
        """What calls by these keys since then were charged, or hold."""
        return sum(
            self.holds[request_id][1] if request_id in self.holds else self.charged[request_id]
            for request_id, key in self.keys.items()
            if key in keys and self.calls[request_id][1] * 1000 >= since
        )

    def moments(self, name: str) -> list[int]:
        """When the account's calls were admitted, all of which the journal or a hold has."""
        return [moment for whose, moment in self.calls.values() if whose == name]

    def evict(self, name: str) -> None:
        self.accounts[name] = Account()

    def grant(self, name: str, *, credit_seq: int, amount: int) -> CreditChangeResult:
        account = self.accounts[name]
        if credit_seq <= account.credit_seq:
            self.accounts[name] = Account(version=account.version, credit_seq=credit_seq)
            return CreditChangeResult.DUPLICATE
        if account.is_loaded and credit_seq > account.credit_seq + 1:
            return CreditChangeResult.SEQUENCE_GAP
        account.credit_seq = credit_seq
        if not account.is_loaded:
            return CreditChangeResult.NOT_LOADED
        account.balance += amount
        return CreditChangeResult.APPLIED

    def bump(self, name: str, version: int) -> None:
        account = self.accounts[name]
        account.version = max(account.version or version, version)

    def settle(self, request_id: str, *, charge: int) -> int | None:
        if request_id not in self.holds:
            return self._correct(request_id, charge=charge)
        name, held = self.holds.pop(request_id)
        account = self.accounts[name]
        if account.is_loaded:
            account.balance += held - charge
            account.in_flight = max(0, account.in_flight - 1)
        return self._charge(account, request_id, "settled", charge=charge)

    def sweep(self, request_id: str) -> bool:
        if request_id not in self.holds:
            return False
        self.swept[request_id], held = self.holds.pop(request_id)
        account = self.accounts[self.swept[request_id]]
        if account.is_loaded:
            account.balance += held
            account.in_flight = max(0, account.in_flight - 1)
        self._charge(account, request_id, "swept", charge=0)
        return True

    def _correct(self, request_id: str, *, charge: int) -> int | None:
        if request_id not in self.swept:
            return None
        account = self.accounts[self.swept.pop(request_id)]
        if account.is_loaded:
            account.balance -= charge
        return self._charge(account, request_id, "corrected", charge=charge)

    def _charge(self, account: Account, request_id: str, kind: str, *, charge: int) -> int | None:
        """Journals the end of a call, with the balance that it left; None of a cold account."""
        self.journal.append((request_id, kind, account.balance if account.is_loaded else None))
        self.charged[request_id] = charge
        return account.balance if account.is_loaded else None

    def admit(
        self,
        name: str,
        request_id: str,
        *,
        clock_ms: int,
        dated_ms: int,
        version: int,
        catalogue: int,
        amount: int,
        required: int,
        limits: Limits,
        key: UUID,
        cap: Cap | None,
        keys: tuple[UUID, ...],
    ) -> Admission:
        """`keys` are those that spend from the budget of the cap."""
        account = self.accounts[name]
        if not account.is_loaded or self.catalogue is None or account.version is None:
            return Admission(Verdict.NOT_LOADED)
        if account.version > version or self.catalogue > catalogue:
            return Admission(Verdict.STALE)
        if cap is not None and account.counted.get(cap.budget_id) != (cap.since, keys):
            return Admission(Verdict.BUDGET_NOT_LOADED)
        if account.clock_ms - clock_ms > MAX_LEAD_MS:
            self.accounts[name] = Account(version=account.version, credit_seq=account.credit_seq)
            return Admission(Verdict.NOT_LOADED)
        now_ms = self.now_ms(name, clock_ms)
        verdict, retry_ms, violated = self._judge(account, now_ms, required, limits)
        key_left = 0
        if verdict is Verdict.ADMITTED and cap is not None and required > 0:
            left = cap.credits - self.spent(cap.since, keys)
            if left < required:
                verdict, key_left = Verdict.KEY_BUDGET_EXHAUSTED, max(left, 0)
        if verdict is Verdict.ADMITTED:
            account.balance -= amount
            account.in_flight += 1
            account.clock_ms = now_ms
            account.version = version
            account.admitted_ms.append(now_ms)
            self.holds[request_id] = (name, amount)
            self.calls[request_id] = (name, dated_ms)
            self.keys[request_id] = key
        used, reset = self._used_and_reset(account, now_ms)
        return Admission(
            verdict, account.balance, used, reset, seconds_up(retry_ms), violated, budget_remaining=key_left
        )

    def _judge(
        self, account: Account, now_ms: int, required: int, limits: Limits
    ) -> tuple[Verdict, int, tuple[Window, ...]]:
        waits = {
            window: _wait_ms(account, window, limit, now_ms=now_ms)
            for window, limit in zip(WINDOWS, limits.per_window, strict=True)
            if limit is not None and len(account.live(window, now_ms)) >= limit
        }
        if waits:
            return Verdict.RATE_LIMITED, max(waits.values()), tuple(waits)
        if limits.in_flight is not None and account.in_flight >= limits.in_flight:
            return Verdict.TOO_MANY_IN_FLIGHT, 0, ()
        if required > 0 and account.balance + limits.overage < required:
            return Verdict.INSUFFICIENT_CREDITS, 0, ()
        return Verdict.ADMITTED, 0, ()

    def _used_and_reset(self, account: Account, now_ms: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        live = [account.live(window, now_ms) for window in WINDOWS]
        resets = [
            seconds_up(_told_ms(window, account.leaves_ms(window, min(moments, default=now_ms)) - now_ms))
            for window, moments in zip(WINDOWS, live, strict=True)
        ]
        return tuple(map(len, live)), tuple(resets)


def _wait_ms(account: Account, window: Window, limit: int, *, now_ms: int) -> int:
    """How long until enough admissions have left for one more. A limit of 0 waits until all have."""
    live = account.live(window, now_ms)
    if not live:
        return WINDOW_SECONDS[window] * 1000
    last_to_leave = live[min(len(live) - limit, len(live) - 1)]
    return _told_ms(window, account.leaves_ms(window, last_to_leave) - now_ms)


def _told_ms(window: Window, wait_ms: int) -> int:
    """The minute never tells more than a minute, although its last step may have a second to go after it."""
    return min(wait_ms, MINUTE_MS) if window is Window.MINUTE else wait_ms
