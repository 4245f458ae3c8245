"""What one client may cost, in bytes and time, and the deadline that holds it to its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

_EARLY_SECONDS = 0.001  # uvloop's clock and timers count in milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """What the configuration allows a client. `max_header_bytes` counts the request line and all fields.

    `body_min_rate` is in bytes a second, 0 for none. `max_connections_per_address` None means no limit.
    """

    max_header_bytes: int = 32 * 1024
    header_timeout_seconds: float = 10.0
    body_idle_timeout_seconds: float = 30.0
    body_min_rate: int = 0
    keep_alive_seconds: float = 75.0  # nginx's keepalive_timeout
    max_connections: int = 10_000
    max_connections_per_address: int | None = None


DEFAULT_LIMITS = ListenerLimits()


class Deadline:
    """A deadline that moves often and hardly ever expires: moving it costs an assignment, not a timer."""

    __slots__ = ("_action", "_armed_at", "_at", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = inf
        self._action: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = inf

    @property
    def at(self) -> float:
        """When it expires; infinite where it is not set."""
        return self._at

    def set(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls `action` after that time, unless the deadline is moved before."""
        self._at = at = self._loop.time() + seconds
        self._action = action
        if at < self._armed_at:
            self._arm()

    def clear(self) -> None:
        self._at = inf
        self._action = None

    def cancel(self) -> None:
        """Clears it for good, and leaves no timer in the loop."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = self._at
        self._timer = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._armed_at = inf
        if self._at > self._loop.time() + _EARLY_SECONDS:
            if self._at != inf:
                self._arm()
            return
        action = self._action
        self.clear()
        if action is not None:
            action()


class BodyPace:
    """Holds a body to a rate, in bytes a second. The time that the gateway does not wait for the client is free.

    A client has `grace_seconds` at first, and earns more by what it sends, never above that.
    """

    __slots__ = ("_grace_seconds", "_rate", "_seconds_left", "_waits_since")

    @classmethod
    def of(cls, limits: ListenerLimits) -> BodyPace | None:
        rate = limits.body_min_rate
        return cls(rate=rate, grace_seconds=limits.body_idle_timeout_seconds) if rate else None

    def __init__(self, *, rate: int, grace_seconds: float) -> None:
        self._rate = rate
        self._grace_seconds = self._seconds_left = grace_seconds
        self._waits_since: float | None = None

    def wait(self, now: float) -> float:
        """The gateway waits for the client; gives how long it may from now on."""
        if self._waits_since is None:
            self._waits_since = now
        return max(0.0, self._seconds_left - (now - self._waits_since))

    def received(self, size_bytes: int, now: float) -> None:
        if self._waits_since is not None:
            self._seconds_left -= now - self._waits_since
            self._waits_since = None
        self._seconds_left = min(self._grace_seconds, self._seconds_left + size_bytes / self._rate)
