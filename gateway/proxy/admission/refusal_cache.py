"""Who goes on calling although a window is used up: told the same again for a moment, without asking the meter.

Only one who was refused FLOOD times in WINDOW_SECONDS, and only for REPEATED_SECONDS and while one call asks anew:
whoever waits as it was told to is served as soon as ever, and a client that heeds no refusal asks Redis now and then,
not as often as it can.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import monotonic_seconds
from gateway.meter.admissions import Admission
from gateway.meter.replies import Verdict
from gateway.proxy.admission.principals import Caller
from policies.model import Refused

FLOOD = 20
WINDOW_SECONDS = 0.1
REPEATED_SECONDS = 0.05  # longer than a busy process takes to answer all of a flood once, or none of it is spared
ASKING_SECONDS = 0.01  # then one call asks for all: the others are told the same until it has its answer
MAX_CALLERS = 10_000  # past it all are forgotten, and asked for again


class _Refusals:
    """Those of one caller in the present window, and the last of them, which was heard of at `heard_at`."""

    __slots__ = ("admission", "caller", "count", "heard_at", "refused", "repeated_until", "since")

    def __init__(self, caller: Caller, since: float) -> None:
        self.caller = caller
        self.since = self.heard_at = since
        self.count = 0
        self.repeated_until = 0.0
        self.admission: Admission
        self.refused: Refused


class Floods:
    """The refusals of one process, by the key that called."""

    def __init__(self, monotonic: Callable[[], float] = monotonic_seconds) -> None:
        self._monotonic = monotonic
        self._by_key: dict[bytes, _Refusals] = {}

    def standing(self, caller: Caller) -> tuple[Admission, Refused] | None:
        """What the last call of this caller was refused with, if that is to be said again; None: the meter is asked."""
        found = self._by_key.get(caller.digest)
        if found is None or found.caller is not caller:
            return None
        instant = self._monotonic()
        if instant < found.repeated_until:
            return found.admission, found.refused
        if found.count >= FLOOD and instant - found.heard_at < WINDOW_SECONDS:
            found.repeated_until = instant + ASKING_SECONDS
        return None

    def ended(self, caller: Caller) -> None:
        """Hears that the meter says something else by now."""
        if self._by_key:
            self._by_key.pop(caller.digest, None)

    def note(self, caller: Caller, admission: Admission, refused: Refused) -> None:
        """Hears of a refusal of the meter's. Only windows count: no other limit tells a client for how long to wait."""
        if admission.verdict is not Verdict.RATE_LIMITED:
            self.ended(caller)
            return
        instant = self._monotonic()
        found = self._by_key.get(caller.digest)
        if found is None or found.caller is not caller or instant - _begun(found) >= WINDOW_SECONDS:
            if len(self._by_key) >= MAX_CALLERS:
                self._by_key.clear()
            found = self._by_key[caller.digest] = _Refusals(caller, instant)
        found.count += 1
        found.heard_at = instant
        if found.count >= FLOOD:
            found.admission, found.refused = admission, refused
            found.repeated_until = instant + REPEATED_SECONDS


def _begun(refusals: _Refusals) -> float:
    """A flood that goes on is one; before it is one, refusals must come within a window."""
    return refusals.heard_at if refusals.count >= FLOOD else refusals.since
