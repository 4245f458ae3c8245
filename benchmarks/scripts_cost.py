"""What a decision costs Redis: script time, server CPU and append-only file bytes per call, for each script.

`python -m benchmarks.scripts_cost`. One embedded server of its own on loopback, 1,000 accounts in 64 partitions, 64
callers over one link. Script time is the server's own (INFO commandstats); CPU is the whole server process, by /proc.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import uvloop

from benchmarks.machine import describe
from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from gateway.meter.client.client import RedisClient
from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.meter.scripts import SCRIPTS
from policies.access.limits import Limits

CALLS = 100_000
CALLERS = 64
ACCOUNTS = 1_000
ANSWER = b"z" * 500
PREFIX, SUFFIX = "x" * 330, "y" * 150  # as long as those of a call with all its columns
PLENTY = Limits((10**8, 10**8, 10**8), 10**8)
USED_UP = Limits((1, 10**8, 10**8), None)


@dataclass(frozen=True, slots=True)
class Cost:
    """Per call: microseconds, and bytes of the append-only file."""

    name: str
    script_us: float
    server_cpu_us: float
    client_cpu_us: float
    file_bytes: float
    calls_per_second: float


class Bench:
    """A server, a meter on it, and accounts that are loaded."""

    def __init__(self, folder: Path, redis_client: RedisClient, *, pid: int) -> None:
        self._folder = folder
        self._redis = redis_client
        self._pid = pid
        self._meter = Meter(redis_client, partitions=64, owner="bench")
        self._accounts = [self._meter.keys(uuid4()) for _ in range(ACCOUNTS)]
        self._requests = [str(uuid4()) for _ in range(CALLS)]

    async def prepare(self) -> None:
        await self._redis.call((b"CONFIG", b"SET", b"auto-aof-rewrite-percentage", 0))  # it would shrink the file
        for keys in self._accounts:
            await self._meter.load(keys, account_version=1, credit_seq=0, balance=10**12, catalogue_version=1)

    async def admit(self, number: int, limits: Limits = PLENTY, claim: IdempotencyClaim | None = None) -> None:
        await self._meter.admit(
            self._accounts[number % ACCOUNTS],
            request_id=self._requests[number],
            account_version=1,
            catalogue_version=1,
            amount=1,
            required=1,
            limits=limits,
            prefix=PREFIX,
            claim=claim,
        )

    async def admit_keyed(self, number: int) -> None:
        await self.admit(number, claim=self._claim(number))

    async def settle_keyed(self, number: int) -> None:
        keys, claim_outcome = self._accounts[number % ACCOUNTS], ClaimOutcome(self._claim(number), ANSWER)
        await self._meter.settle(Settlement(keys, self._requests[number], 1, SUFFIX, claim_outcome=claim_outcome))

    def _claim(self, number: int) -> IdempotencyClaim:
        return IdempotencyClaim(f"{number:064}", "f" * 64)

    async def refuse(self, number: int) -> None:
        await self.admit(number, USED_UP)

    async def settle(self, number: int) -> None:
        await self._meter.settle(Settlement(self._accounts[number % ACCOUNTS], self._requests[number], 1, SUFFIX))

    async def ping(self, _: int) -> None:
        await self._redis.call((b"PING",))

    async def measure(self, name: str, call: Callable[[int], Awaitable[None]]) -> Cost:
        await self._redis.call((b"CONFIG", b"RESETSTAT"))
        server, file, client, started = self._cpu_seconds(), self._file_bytes(), time.process_time(), time.monotonic()
        await asyncio.gather(*(self._caller(call, first) for first in range(CALLERS)))
        elapsed = time.monotonic() - started
        client = time.process_time() - client
        await asyncio.sleep(0.5)  # the file is written after the replies
        return Cost(
            name,
            await self._script_us(),
            (self._cpu_seconds() - server) / CALLS * 1e6,
            client / CALLS * 1e6,
            (self._file_bytes() - file) / CALLS,
            CALLS / elapsed,
        )

    async def _caller(self, call: Callable[[int], Awaitable[None]], first: int) -> None:
        for number in range(first, CALLS, CALLERS):
            await call(number)

    async def _script_us(self) -> float:
        stats = (await self._redis.call((b"INFO", b"commandstats"))).decode()
        found = re.search(r"cmdstat_evalsha:.*usec_per_call=([0-9.]+)", stats)
        return float(found[1]) if found else 0.0

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def _file_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.rglob("*.aof"))


async def measure_all(folder: Path) -> tuple[str, list[Cost]]:
    endpoint, valkey = choose(None).valkey, Valkey(folder, durable=True)
    await valkey.start(endpoint)
    redis_client = RedisClient(
        f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0", timeout_seconds=5, scripts=SCRIPTS
    )
    try:
        await redis_client.open()
        server = dict(
            line.split(":", 1) for line in (await redis_client.call((b"INFO",))).decode().splitlines() if ":" in line
        )
        bench = Bench(folder, redis_client, pid=int(server["process_id"]))
        await bench.prepare()
        steps = {"admit": bench.admit, "settle": bench.settle, "refuse": bench.refuse, "ping": bench.ping}
        keyed = {
            "admit with an Idempotency-Key": bench.admit_keyed,
            "settle, and store the answer": bench.settle_keyed,
            "repeat": bench.admit_keyed,
        }
        costs = [await bench.measure(name, call) for name, call in steps.items()]
        memory = int(await redis_client.call((b"MEMORY", b"USAGE", bench._accounts[0].account)))  # noqa: SLF001 - of this module
        costs += [await bench.measure(name, call) for name, call in keyed.items()]
        version = server.get("valkey_version") or server["redis_version"]
        return f"{version}; an account after {CALLS // ACCOUNTS} calls takes {memory} bytes", costs
    finally:
        await redis_client.close()
        await valkey.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        version, costs = uvloop.run(measure_all(Path(folder)))
    print(f"{describe()}; server {version}")
    print("| call | script us | server CPU us | client CPU us | file bytes | calls/s |\n|---|---|---|---|---|---|")
    for cost in costs:
        print(
            f"| {cost.name} | {cost.script_us:.1f} | {cost.server_cpu_us:.1f} | {cost.client_cpu_us:.1f} "
            f"| {cost.file_bytes:.0f} | {cost.calls_per_second:,.0f} |"
        )


if __name__ == "__main__":
    main()
