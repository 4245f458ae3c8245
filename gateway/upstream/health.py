"""The health of a target: consecutive failures eject it, and it returns for one trial after a growing pause.

Pure: the caller passes monotonic seconds. One success readmits a target at once, except that only a probe readmits one
that probes have ejected.
"""

from __future__ import annotations

from collections.abc import Hashable

# Envoy's outlier detection: 5 consecutive failures. It pauses 30 s at first, this 1 s: there may be no other target.
FAILURES_TO_EJECT = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# HAProxy's `fall`. Successful requests do not count against probes: a draining target reports it before it fails.
FAILED_PROBES_TO_EJECT = 3
# A trial that waits for a slow answer keeps nobody else from trying for longer than a connect may take by default.
TRIAL_SECONDS = 2.0
# An account whose own calls fail so often in a row is paused alone, whatever becomes of others': each may cost the
# target a worker, and the gateway a connection.
FAILURES_TO_PAUSE_ACCOUNT = 20
LONGEST_PAUSE_OF_ACCOUNT_SECONDS = 10.0
# How lately an account must have called to have a say, and how many are remembered.
ACTIVE_SECONDS = 30.0
MAX_ACTIVE = 256


class _Streak:
    """The failures in a row of one account, and when it may try again."""

    __slots__ = ("failures", "is_on_trial", "returns_at")

    def __init__(self) -> None:
        self.failures = 0
        self.returns_at = 0.0
        self.is_on_trial = False

    @property
    def is_paused(self) -> bool:
        return self.failures >= FAILURES_TO_PAUSE_ACCOUNT

    def record_failure(self, now: float) -> None:
        """Calls that were under way when the pause began, or a trial, do not lengthen it."""
        if self.is_paused and not self.is_on_trial:
            return
        self.failures += 1
        self.is_on_trial = False
        if self.is_paused:
            doubled = FIRST_PAUSE_SECONDS * 2.0 ** (self.failures - FAILURES_TO_PAUSE_ACCOUNT)
            self.returns_at = now + min(LONGEST_PAUSE_OF_ACCOUNT_SECONDS, doubled)


class Health:
    """The record of one target; each `start_attempt` is followed by one `record_*`.

    Accounts are any hashable values. One account's calls may fail by what it asks for, so failures eject the target
    only where they are several accounts' and at least half of those that called lately; or where nobody else calls, and
    then they pause it for that account alone. Failures of no account, such as those to connect, count by themselves.
    """

    __slots__ = (
        "_active",
        "_ejections",
        "_failed_probes",
        "_failing",
        "_failures",
        "_failures_of_nobody",
        "_only_for",
        "_returns_at",
        "_streaks",
        "_trial_at",
    )

    def __init__(self) -> None:
        self._failures = 0
        self._failures_of_nobody = 0
        self._failing: set[Hashable] = set()
        self._active: dict[Hashable, float] = {}
        self._ejections = 0
        self._failed_probes = 0
        self._returns_at: float | None = None
        self._only_for: Hashable = None
        self._trial_at: float | None = None
        self._streaks: dict[Hashable, _Streak] = {}

    def __repr__(self) -> str:
        state = "in use" if not self.is_ejected else "on trial" if self._trial_at is not None else "ejected"
        return f"<Health {state}, {self._failures} failures, {self._ejections} ejections>"

    @property
    def is_ejected(self) -> bool:
        return self._returns_at is not None or self._fails_probes

    def accepts_requests(self, now: float, account: Hashable = None) -> bool:
        """True unless the target is ejected, or paused for the account; then it accepts one request at a time."""
        if self._streaks and (streak := self._streaks.get(account)) and streak.is_paused and now < streak.returns_at:
            return False
        if self._returns_at is None and not self._failed_probes:
            return True
        if self._fails_probes:
            return False
        if self._returns_at is None or (self._only_for is not None and account != self._only_for):
            return True
        is_on_trial = self._trial_at is not None and now < self._trial_at + TRIAL_SECONDS
        return now >= self._returns_at and not is_on_trial

    def start_attempt(self, now: float = 0.0, account: Hashable = None) -> bool:
        """Whether this attempt is the trial of an ejected target."""
        if self._streaks and (streak := self._streaks.get(account)) and streak.is_paused:
            streak.is_on_trial, streak.returns_at = True, now + TRIAL_SECONDS
        if self._returns_at is None:
            return False
        self._trial_at = now
        return True

    def record_success(self, account: Hashable = None, now: float = 0.0) -> None:
        if account in self._active:  # as most are
            self._active[account] = now
        elif account is not None:
            self._record_active(account, now)
        if self._streaks:
            self._streaks.pop(account, None)
        if self._failures or self._returns_at is not None:
            self._readmit()

    def record_failure(self, now: float, *, trial: bool, account: Hashable = None) -> bool:
        """Whether this ejects the target. Only a trial lengthens an ejection; requests from before it do not."""
        if account is not None:
            self._record_streak(account, now)
        if self._returns_at is not None and not trial:
            return False
        was_ejected = self.is_ejected
        self._trial_at = None
        self._failures += 1
        if account is None:
            self._failures_of_nobody += 1
        else:
            self._record_active(account, now)
            if len(self._failing) < MAX_ACTIVE:
                self._failing.add(account)
        if trial or self._is_sick(now):
            self._only_for = self._culprit()
            pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self._ejections)
            self._returns_at = now + pause_seconds
            self._ejections += 1
        return self.is_ejected and not was_ejected

    def _readmit(self) -> None:
        self._failures = self._failures_of_nobody = self._ejections = 0
        self._failing.clear()
        self._returns_at = self._only_for = self._trial_at = None

    def _is_sick(self, now: float) -> bool:
        if self._failures < FAILURES_TO_EJECT:
            return False
        if self._failures_of_nobody >= FAILURES_TO_EJECT:
            return True
        active = sum(1 for seen_at in self._active.values() if seen_at > now - ACTIVE_SECONDS)
        failing = len(self._failing)
        return failing * 2 >= active if failing > 1 else active <= 1

    def _culprit(self) -> Hashable:
        """The one account whose failures these are; None where they are several accounts' or nobody's."""
        return next(iter(self._failing)) if len(self._failing) == 1 and not self._failures_of_nobody else None

    def _record_streak(self, account: Hashable, now: float) -> None:
        streak = self._streaks.get(account)
        if streak is None:
            if len(self._streaks) >= MAX_ACTIVE:
                self._streaks.clear()
            streak = self._streaks[account] = _Streak()
        streak.record_failure(now)

    def _record_active(self, account: Hashable, now: float) -> None:
        if account not in self._active and len(self._active) >= MAX_ACTIVE:
            self._active.clear()
        self._active[account] = now

    def record_probe(self, *, is_healthy: bool) -> bool:
        """Whether this ejects the target."""
        if is_healthy:
            self._failed_probes = 0
            self._readmit()
            return False
        was_ejected = self.is_ejected
        self._failed_probes += 1
        return self.is_ejected and not was_ejected

    def record_unknown(self, *, trial: bool) -> None:
        """For an attempt that the client broke off, or that sent nothing: the next request is the trial."""
        if trial:
            self._trial_at = None

    @property
    def _fails_probes(self) -> bool:
        return self._failed_probes >= FAILED_PROBES_TO_EJECT
