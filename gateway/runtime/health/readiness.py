"""What keeps a process from serving, as it finds by doing what serving needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from gateway.ledger.db.session import Database
from gateway.meter.meter import Meter
from gateway.runtime.store_connections import failures

Probe = Callable[[], Awaitable[Mapping[str, str]]]


class KnownCallers(Protocol):
    def has_servable(self) -> bool:
        """Whether some caller would be served without PostgreSQL."""


class Readiness:
    """A worker that runs the probes of its process. `missing` is what they found last, each name with the reason."""

    idle_seconds = 1.0

    def __init__(self) -> None:
        self._probes: list[Probe] = []
        self.missing: Mapping[str, str] = {}

    def add(self, probe: Probe) -> None:
        self._probes.append(probe)

    async def run_once(self) -> int:
        """Returns 0: there is never more to do at once."""
        found: dict[str, str] = {}
        for probe in self._probes:
            found.update(await probe())
        self.missing = found
        return 0


def probe_of_proxy(
    database: Database, meter: Meter, principals: KnownCallers, *, needs_redis: bool
) -> Callable[[], Awaitable[dict[str, str]]]:
    """What keeps calls from being admitted. PostgreSQL alone does not, while there are callers to serve without it."""

    async def missing() -> dict[str, str]:
        found = await failures(database=database.ping(), redis=meter.check_writable())
        if "database" in found and principals.has_servable():
            del found["database"]
        if not needs_redis:
            found.pop("redis", None)
        return found

    return missing
