"""Whether a target is worth asking: ejected after failures in a row, back for one trial after a growing pause.

Pure: the time comes in as monotonic seconds. It errs towards asking: one success, however late, readmits at once; but
only a probe readmits whom probes have ejected.
"""

from __future__ import annotations

# Envoy's outlier detection: 5 failures in a row. Its pause starts at 30 s, ours at 1: there may be no other target.
FAILURES_TO_EJECT = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# HAProxy's `fall`. Requests that succeed do not outvote the probes: a target that drains says so before it fails.
FAILED_PROBES_TO_EJECT = 3


class Health:
    """The record of one target. `asked` and one of `succeeded`, `failed`, `unknown` belong together."""

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
        return self._returns_at is not None or self._is_ill

    def may_be_asked(self, now: float) -> bool:
        """Ejected targets take one request at a time once their pause is over."""
        if self._is_ill:
            return False
        return self._returns_at is None or (now >= self._returns_at and not self._on_trial)

    def asked(self) -> bool:
        """A request goes out; True if it is the trial of an ejected target."""
        self._on_trial = self._returns_at is not None
        return self._on_trial

    def succeeded(self) -> None:
        self._failures = self._ejections = 0
        self._returns_at = None
        self._on_trial = False

    def failed(self, now: float, *, trial: bool) -> bool:
        """Whether this ejects it. Only a trial lengthens an ejection; stragglers from before it say nothing new."""
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

    def probed(self, *, is_well: bool) -> bool:
        """Whether this ejects it."""
        if is_well:
            self._failed_probes = 0
            self.succeeded()
            return False
        was_ejected = self.is_ejected
        self._failed_probes += 1
        return self.is_ejected and not was_ejected

    def unknown(self, *, trial: bool) -> None:
        """The client left, or nothing was sent: the next request may try."""
        if trial:
            self._on_trial = False

    @property
    def _is_ill(self) -> bool:
        return self._failed_probes >= FAILED_PROBES_TO_EJECT
