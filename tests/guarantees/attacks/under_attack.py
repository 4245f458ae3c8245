"""A served gateway with a victim and attackers of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from tests.guarantees.attacks.attackers import Load
from tests.guarantees.attacks.attacking_connection import ADDRESS
from tests.guarantees.attacks.kinds import ATTACKS, Attack
from tests.guarantees.attacks.victim import Victim
from tests.guarantees.simulation.served_gateway import Served, create_account
from tests.support.sampling import SEED

ATTACKING_ACCOUNTS = max(each.accounts for each in ATTACKS)
REST_SECONDS = 30.0  # only a failure waits so long


@dataclass(frozen=True)
class UnderAttack:
    served: Served
    worker: psutil.Process
    attacking_keys: tuple[str, ...]

    @classmethod
    async def of(cls, served: Served) -> UnderAttack:
        keys = [await create_account(served.config) for _ in range(ATTACKING_ACCOUNTS)]
        (worker,) = [each for each in psutil.Process(served.process.pid).children() if "proxy" in each.cmdline()]
        return cls(served, worker, tuple(keys))

    def victim(self, path: str = "/v1/call") -> Victim:
        return Victim(self.served.public_url, self.served.key, path)

    def load(self, attack: Attack, *, connections: int, bytes_per_second: int) -> Load:
        keys = self.attacking_keys[: attack.accounts]
        return Load(attack.name, self.served.public_url, keys, SEED, connections, bytes_per_second)

    async def come_to_rest(self) -> None:
        """Returns once nothing of an attack is left: no connection, no hold. Raises TimeoutError if something stays."""
        async with asyncio.timeout(REST_SECONDS):
            while self._attackers_connections() or await self.served.open_holds():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)

    def _attackers_connections(self) -> int:
        """Connections of attackers that the gateway still has."""
        return sum(bool(each.raddr) and each.raddr[0] == ADDRESS for each in self.worker.net_connections("tcp"))


@asynccontextmanager
async def attackers_process(loads: Sequence[Load]) -> AsyncIterator[list[dict[str, Any]]]:
    """Attackers in a process of their own until the end of the block; then the list has what each load met."""
    command = [sys.executable, "-m", "tests.guarantees.attacks.attackers", json.dumps([asdict(each) for each in loads])]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    met: list[dict[str, Any]] = []
    try:
        yield met
    finally:
        said, _ = await process.communicate(b"")  # ends its input
        met += json.loads(said)
