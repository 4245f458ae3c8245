"""What the processes of one supervisor have reported, and what that says of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.clock import monotonic_seconds

REPORT_SECONDS = 0.5
SILENT_SECONDS = 3.0  # six reports: a process that is frozen, or whose event loop is blocked
FROZEN_SECONDS = 30.0  # and will not recover


@dataclass(slots=True)
class ProcessReport:
    """What a process has reported last. `reported_at` is None while none has come since its start."""

    name: str
    serves_calls: bool
    missing: Mapping[str, str] = field(default_factory=dict)
    reported_at: float | None = None

    def hear(self, missing: Mapping[str, str]) -> None:
        self.missing, self.reported_at = missing, monotonic_seconds()

    def end(self) -> None:
        """The process is gone; its successor has not reported yet."""
        self.missing, self.reported_at = {}, None

    def silent_seconds(self) -> float | None:
        return None if self.reported_at is None else monotonic_seconds() - self.reported_at

    def now_missing(self) -> Mapping[str, str]:
        silent_seconds = self.silent_seconds()
        if silent_seconds is None:
            return {self.name: "is starting"}
        if silent_seconds > SILENT_SECONDS:
            return {self.name: f"has been silent for {silent_seconds:.0f} s"}
        return self.missing


class GroupHealth:
    """The health of all processes of one supervisor. Where some of them serve calls, readiness is theirs alone."""

    def __init__(self, processes: Callable[[], Sequence[ProcessReport]]) -> None:
        self._processes = processes
        self.is_draining = False

    @property
    def processes(self) -> Sequence[ProcessReport]:
        return self._processes()

    def missing(self) -> dict[str, str]:
        """What keeps the group from serving, each name with the reason; empty when nothing does."""
        if self.is_draining:
            return {"draining": "the gateway is stopping"}
        processes = self.processes
        if not processes:
            return {"starting": "no process runs yet"}
        found: dict[str, str] = {}
        for each in [each for each in processes if each.serves_calls] or processes:
            found.update(each.now_missing())
        return found

    def frozen(self) -> list[str]:
        """Processes that run and have said nothing for so long that only a restart helps."""
        return [each.name for each in self.processes if (each.silent_seconds() or 0.0) > FROZEN_SECONDS]
