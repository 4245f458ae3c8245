"""Whether a target is worth asking: ejected after failures in a row, back for one trial after a growing pause.

Pure: the time comes in as monotonic seconds. It errs towards asking: one success, however late, readmits at once.
"""

from __future__ import annotations

# Envoy's outlier detection: 5 failures in a row. Its pause starts at 30 s, ours at 1: there may be no other target.
FAILURES_TO_EJECT = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


class Health:
    """The record of one target. `asked` and one of `succeeded`, `failed`, `unknown` belong together."""

    __slots__ = ("_ejections", "_failures", "_on_trial", "_returns_at")

    def __init__(self) -> None:
        self._failures = 0
        self._ejections = 0
        self._returns_at: float | None = None
        self._on_trial = False

    def __repr__(self) -> str:
        state = "in use" if self._returns_at is None else "on trial" if self._on_trial else "ejected"
        return f"<Health {state}, {self._failures} failures, {self._ejections} ejections>"

    @property
    def is_ejected(self) -> bool:
        return self._returns_at is not None

    def may_be_asked(self, now: float) -> bool:
        """Ejected targets take one request at a time once their pause is over."""
        return self._returns_at is None or (now >= self._returns_at and not self._on_trial)

    def asked(self) -> bool:
        """A request goes out; True if it is the trial of an ejected target."""
        self._on_trial = self._returns_at is not None
        return self._on_trial

    def succeeded(self) -> None:
        self._failures = self._ejections = 0
        self._returns_at = None
        self._on_trial = False

    def failed(self, now: float, *, trial: bool) -> None:
        """Only a trial lengthens an ejection; stragglers from before it say nothing new."""
        if self._returns_at is not None and not trial:
            return
        self._on_trial = False
        self._failures += 1
        if trial or self._failures >= FAILURES_TO_EJECT:
            pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self._ejections)
            self._returns_at = now + pause_seconds
            self._ejections += 1

    def unknown(self, *, trial: bool) -> None:
        """The client left, or nothing was sent: the next request may try."""
        if trial:
            self._on_trial = False
