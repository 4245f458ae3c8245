"""The health of a target: consecutive failures eject it, and it returns for one trial after a growing pause.

Pure: the caller passes monotonic seconds. One success readmits a target at once, except that only a probe readmits one
that probes have ejected.
"""

from __future__ import annotations

# Envoy's outlier detection: 5 consecutive failures. It pauses 30 s at first, this 1 s: there may be no other target.
FAILURES_TO_EJECT = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# HAProxy's `fall`. Successful requests do not count against probes: a draining target reports it before it fails.
FAILED_PROBES_TO_EJECT = 3


class Health:
    """The record of one target; each `start_attempt` is followed by one `record_*`."""

    __slots__ = ("_ejections", "_failed_probes", "_failures", "_on_trial", "_returns_at")

    def __init__(self) -> None:
        self._failures = 0
        self._ejections = 0
        self._failed_probes = 0
        self._returns_at: float | None = None
        self._on_trial = False

    def __repr__(self) -> str:
        state = "in use" if not self.is_ejected else "on trial" if self._on_trial else "ejected"
        return f"<Health {state}, {self._failures} failures, {self._ejections} ejections>"

    @property
    def is_ejected(self) -> bool:
        return self._returns_at is not None or self._fails_probes

    def accepts_requests(self, now: float) -> bool:
        """True unless the target is ejected; after its pause it accepts one request at a time."""
        if self._fails_probes:
            return False
        return self._returns_at is None or (now >= self._returns_at and not self._on_trial)

    def start_attempt(self) -> bool:
        """Whether this attempt is the trial of an ejected target."""
        self._on_trial = self._returns_at is not None
        return self._on_trial

    def record_success(self) -> None:
        self._failures = self._ejections = 0
        self._returns_at = None
        self._on_trial = False

    def record_failure(self, now: float, *, trial: bool) -> bool:
        """Whether this ejects the target. Only a trial lengthens an ejection; requests from before it do not."""
        if self._returns_at is not None and not trial:
            return False
        was_ejected = self.is_ejected
        self._on_trial = False
        self._failures += 1
        if trial or self._failures >= FAILURES_TO_EJECT:
            pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self._ejections)
            self._returns_at = now + pause_seconds
            self._ejections += 1
        return self.is_ejected and not was_ejected

    def record_probe(self, *, is_healthy: bool) -> bool:
        """Whether this ejects the target."""
        if is_healthy:
            self._failed_probes = 0
            self.record_success()
            return False
        was_ejected = self.is_ejected
        self._failed_probes += 1
        return self.is_ejected and not was_ejected

    def record_unknown(self, *, trial: bool) -> None:
        """For an attempt that the client broke off, or that sent nothing: the next request is the trial."""
        if trial:
            self._on_trial = False

    @property
    def _fails_probes(self) -> bool:
        return self._failed_probes >= FAILED_PROBES_TO_EJECT
