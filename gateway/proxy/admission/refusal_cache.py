"""Remembers refusals: a client that keeps calling although a window is used up gets its last refusal again.

That spares Redis a question for each such call. It is limited to a caller that was refused REFUSALS_TO_CACHE times
within WINDOW_SECONDS, and to CACHED_SECONDS and the time in which one call asks again. A client that waits as
Retry-After says is served as soon as ever; one that ignores it asks Redis now and then, not as often as it can.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import monotonic_seconds
from gateway.meter.admissions import Admission
from gateway.meter.replies import Verdict
from gateway.proxy.admission.caller import Caller
from policies.model import Refused

REFUSALS_TO_CACHE = 20
WINDOW_SECONDS = 0.1
CACHED_SECONDS = 0.05  # longer than a busy process takes to answer a whole burst once; else no call of it is spared
ASKING_SECONDS = 0.01  # while one call asks for all, the others get the cached refusal
MAX_CALLERS = 10_000  # above it all are forgotten


class _Refusals:
    """The refusals of one caller in the present window, and the last of them, which came at `last_at`."""

    __slots__ = ("admission", "cached_until", "caller", "count", "last_at", "refused", "since")

    def __init__(self, caller: Caller, since: float) -> None:
        self.caller = caller
        self.since = self.last_at = since
        self.count = 0
        self.cached_until = 0.0
        self.admission: Admission
        self.refused: Refused

    @property
    def window_start(self) -> float:
        """A cached caller stays cached while it goes on; before that, its refusals must come within one window."""
        return self.last_at if self.count >= REFUSALS_TO_CACHE else self.since


class RefusalCache:
    """The refusals of one process; `by_key`, the digest of an API key, is empty while nobody is refused."""

    def __init__(self, monotonic: Callable[[], float] = monotonic_seconds) -> None:
        self._monotonic = monotonic
        self.by_key: dict[bytes, _Refusals] = {}

    def find(self, caller: Caller) -> tuple[Admission, Refused] | None:
        """The refusal that the caller gets again; None where Redis is to be asked."""
        found = self.by_key.get(caller.digest)
        if found is None or found.caller is not caller:
            return None
        instant = self._monotonic()
        if instant < found.cached_until:
            return found.admission, found.refused
        if found.count >= REFUSALS_TO_CACHE and instant - found.last_at < WINDOW_SECONDS:
            found.cached_until = instant + ASKING_SECONDS
        return None

    def forget(self, caller: Caller) -> None:
        """Drops what is known of a caller, to whom Redis says something else by now."""
        self.by_key.pop(caller.digest, None)

    def record(self, caller: Caller, admission: Admission, refused: Refused) -> None:
        """Counts a refusal by Redis. Only windows count: no other limit tells a client how long to wait."""
        if admission.verdict is not Verdict.RATE_LIMITED:
            self.forget(caller)
            return
        instant = self._monotonic()
        found = self.by_key.get(caller.digest)
        if found is None or found.caller is not caller or instant - found.window_start >= WINDOW_SECONDS:
            found = self._start(caller, instant)
        found.count += 1
        found.last_at = instant
        if found.count >= REFUSALS_TO_CACHE:
            found.admission, found.refused = admission, refused
            found.cached_until = instant + CACHED_SECONDS

    def _start(self, caller: Caller, instant: float) -> _Refusals:
        if len(self.by_key) >= MAX_CALLERS:
            self.by_key.clear()
        refusals = self.by_key[caller.digest] = _Refusals(caller, instant)
        return refusals
