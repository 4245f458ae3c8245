"""What a usage row costs: rows a second, and CPU of the worker process, PostgreSQL and Valkey, into a large table.

`python -m benchmarks.usage_writer`, with `--rows`, `--stored`, `--accounts`, `--rounds` for other sizes. Stores and
`gateway worker` processes of its own. A backlog of `--rows` is journaled while the benchmark holds every partition,
then given free; after that entries come at a steady rate, as from a gateway, and the worker lets them gather.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from random import Random
from uuid import UUID

import asyncpg
import uvloop
from redis.asyncio import Redis

from benchmarks.machine import Family, describe
from gateway.clock import now
from gateway.embedded.stores import Stores
from gateway.ledger.db import month_partitions, schema
from gateway.ledger.db.session import Database
from gateway.meter.meter import Meter
from gateway.request_ids import uuid7
from policies.usage.records import BALANCE_AFTER, COLUMNS, CURRENT, NULL, field_of

PARTITIONS = 64
RECORD_FIELD = field_of(CURRENT)
STEADY_SECONDS = 10.0
STEADY_PER_SECOND = 6_000  # about what one gateway answers on this machine (docs/benchmarks.md)
ANALYSES = 0.1  # the share of rows that analysis_history gets too
POLL_SECONDS = 0.01
PIPELINE = 1_000
_SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}

# Rows of this month, as usage_tracking has them: ids in order of time, accounts in none.
_FILL = """
    INSERT INTO {table} (request_id, created_at, user_id, api_key_id, plan_id, endpoint, method, path, usage_type,
                         outcome, status_code, credits_charged, product_count, request_bytes, response_bytes,
                         response_time_ms, upstream_time_ms, client_ip)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3)
            || '8' || substr(md5(i::text), 4, 15))::uuid,
           at, md5('account ' || i * 7919 % $2)::uuid, md5('key ' || i * 7919 % $2)::uuid, 'pro', 'generate', 'POST',
           '/v1/generate', 'ai_generation', 'succeeded', 200, 1, 1, 512, 2048, 35, 30, '203.0.113.7'
      FROM generate_series(1, $1::bigint) i,
           LATERAL (SELECT date_trunc('month', now()) + (now() - date_trunc('month', now())) * (i / $1::float8) AS at) t
"""
_ACCOUNTS = """
    WITH people AS (
         INSERT INTO users (id, email) SELECT md5('account ' || i)::uuid, i || '@example.com'
           FROM generate_series(0, $1::int - 1) i RETURNING id),
    given AS (
         INSERT INTO credit_grants (id, user_id, source, amount, remaining, effective_at)
         SELECT gen_random_uuid(), id, 'purchase', 1000000000, 1000000000, now() FROM people),
    booked AS (
         INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor)
         SELECT id, 'grant', 1000000000, 1000000000, 'bench' FROM people)
    INSERT INTO user_credits (user_id, current_credits) SELECT id, 1000000000 FROM people
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    rows: int
    stored: int
    accounts: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows a second, and microseconds of CPU a row."""

    rows_per_second: float
    worker_us: float
    postgres_us: float
    valkey_us: float


class Bench:
    """Both stores, and entries to journal."""

    def __init__(self, stores: Stores, redis: Redis, database: asyncpg.Connection, sizes: Sizes) -> None:
        self._database_url = stores.database_url
        self._redis = redis
        self._database = database
        self._sizes = sizes
        self._chance = Random(1)  # noqa: S311 - for the same accounts every time
        meter = Meter(None, partitions=PARTITIONS, owner="bench")  # type: ignore[arg-type] # it only names keys here
        people = [_md5_uuid(f"account {number}") for number in range(sizes.accounts)]
        self._accounts = [(account, meter.keys(account).journal) for account in people]
        self._journals = sorted({journal for _, journal in self._accounts})

    async def fill(self) -> str:
        """Stores the rows there are to be, in a table of its own that becomes this month's partition."""
        (month, *_) = [each for each in await self._months() if each.table == "usage_tracking"]
        name, started = month.name, time.monotonic()
        bounds = f"FROM ('{month.begins.isoformat()}') TO ('{month.ends.isoformat()}')"
        await self._database.execute(_ACCOUNTS.strip(), self._sizes.accounts)
        await self._database.execute("DELETE FROM outbox")
        await self._database.execute(f"ALTER TABLE usage_tracking DETACH PARTITION {name}")
        await self._database.execute(_FILL.format(table=name), self._sizes.stored, self._sizes.accounts)
        await self._database.execute(f"ALTER TABLE usage_tracking ATTACH PARTITION {name} FOR VALUES {bounds}")
        await self._database.execute(f"VACUUM (ANALYZE) {name}")
        size = await self._database.fetchval("SELECT pg_size_pretty(pg_total_relation_size($1::regclass))", name)
        return f"{self._sizes.stored:,} rows stored, {size} with indexes, made in {time.monotonic() - started:.0f} s"

    async def journal(self, count: int) -> None:
        for begin in range(0, count, PIPELINE):
            async with self._redis.pipeline(transaction=False) as pipe:
                for _ in range(min(PIPELINE, count - begin)):
                    account, journal = self._chance.choice(self._accounts)
                    pipe.xadd(journal, {RECORD_FIELD: self._record(account)})
                await pipe.execute()

    async def catch_up(self, workers: Family, postgres: int, valkey: int) -> Sample:
        """A backlog, from the moment that it may be written until it is."""
        holding = self._database.transaction()
        await holding.start()
        await self._database.execute("INSERT INTO journal_offsets SELECT generate_series(0, 63) ON CONFLICT DO NOTHING")
        await self._database.execute("SELECT FROM journal_offsets FOR UPDATE")
        await self.journal(self._sizes.rows)
        counts = Counts(workers, postgres, valkey)
        await holding.commit()
        await self._until_written()
        return counts.sample(self._sizes.rows)

    async def steady(self, workers: Family, postgres: int, valkey: int) -> Sample:
        """Entries as they come from gateways."""
        counts, written, began = Counts(workers, postgres, valkey), 0, time.monotonic()
        while (elapsed := time.monotonic() - began) < STEADY_SECONDS:
            due = int(elapsed * STEADY_PER_SECOND) - written
            await self.journal(due)
            written += due
            await asyncio.sleep(0.02)
        await self._until_written()
        return counts.sample(written)

    async def _until_written(self) -> None:
        while True:
            async with self._redis.pipeline(transaction=False) as pipe:
                for journal in self._journals:
                    pipe.xlen(journal)
                if not any(await pipe.execute()):
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def _months(self) -> Sequence[month_partitions.MonthPartition]:
        database = Database(self._database_url)
        async with database.transaction() as connection:
            await month_partitions.create_missing(connection, now=now())
            found = await month_partitions.list_partitions(connection)
        await database.close()
        return [each for each in found if each.begins <= now() < each.ends]

    def _record(self, account: UUID) -> str:
        is_analysis = self._chance.random() < ANALYSES
        known = {
            "request_id": uuid7(),
            "created_at": time.time_ns() // 1000,
            "user_id": account,
            "api_key_id": account,
            "plan_id": "pro",
            "endpoint": "analyze" if is_analysis else "generate",
            "method": "POST",
            "path": "/v1/analyze" if is_analysis else "/v1/generate",
            "usage_type": "analysis" if is_analysis else "ai_generation",
            "product_count": 1,
            "client_ip": "203.0.113.7",
            "outcome": "succeeded",
            "status_code": 200,
            "credits_charged": 1,
            "request_bytes": 512,
            "response_bytes": 2048,
            "response_time_ms": 35,
            "upstream_time_ms": 30,
            BALANCE_AFTER: 123_456,
        }
        return "\t".join(str(known.get(name, NULL)) for name in COLUMNS)


class Counts:
    """CPU and time from here on."""

    def __init__(self, workers: Family, postgres: int, valkey: int) -> None:
        # PostgreSQL's connections are processes of their own, and are kept by the pools that opened them.
        self._families = (workers, Family.of(postgres), Family.of(valkey))
        self._before = [family.cpu_seconds() for family in self._families]
        self._began = time.monotonic()

    def sample(self, rows: int) -> Sample:
        elapsed = time.monotonic() - self._began
        spent = [family.cpu_seconds() - before for family, before in zip(self._families, self._before, strict=True)]
        return Sample(rows / elapsed, *(seconds / rows * 1e6 for seconds in spent))


async def measure(folder: Path, sizes: Sizes) -> None:
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(await Stores.open(folder / "data"))
        await schema.upgrade(stores.database_url)
        redis = await stack.enter_async_context(Redis.from_url(stores.redis_url))
        database = await asyncpg.connect(stores.database_url)
        stack.push_async_callback(database.close)
        bench = Bench(stores, redis, database, sizes)
        print(f"{describe()}; {await bench.fill()}; load {os.getloadavg()[0]:.1f}", flush=True)
        postgres = int((folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
        valkey = int((await redis.info("server"))["process_id"])
        print(f"backlogs of {sizes.rows:,} rows of {sizes.accounts:,} accounts, medians of {sizes.rounds}\n")
        print("| | rows/s (spread) | worker, µs per row | PostgreSQL | Valkey |\n|---|---|---|---|---|")
        running: list[int] = []
        for count in (1, 2):
            running.append(await stack.enter_async_context(_worker(folder, stores)))
            workers = Family(frozenset().union(*(Family.of(pid).pids for pid in running)))
            await bench.catch_up(workers, postgres, valkey)  # connections, plans, caches
            samples = [await bench.catch_up(workers, postgres, valkey) for _ in range(sizes.rounds)]
            _report(f"backlog, {count} worker process{'es' * (count > 1)}", samples)
            if count == 1:
                _report(f"{STEADY_PER_SECOND:,} rows/s", [await bench.steady(workers, postgres, valkey)])
        print(f"\nload at the end {os.getloadavg()[0]:.1f}")


def _report(name: str, samples: list[Sample]) -> None:
    rates = [sample.rows_per_second for sample in samples]
    costs = [
        statistics.median(getattr(sample, field) for sample in samples)
        for field in ("worker_us", "postgres_us", "valkey_us")
    ]
    spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
    print(f"| {name} | {spread} | {' | '.join(f'{cost:.1f}' for cost in costs)} |", flush=True)


@asynccontextmanager
async def _worker(folder: Path, stores: Stores) -> AsyncIterator[int]:
    """`gateway worker` until the end of the block."""
    (folder / "gateway.yaml").write_text("{}")
    places = {
        "GATEWAY_DATABASE__URL": stores.database_url,
        "GATEWAY_REDIS__URL": stores.redis_url,
        "GATEWAY_DATA_DIR": str(folder / "worker"),
    }
    command = [sys.executable, "-m", "gateway", "worker", "--config", str(folder / "gateway.yaml"), "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **_SECRETS, **places}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        if process.stdout is None or not await asyncio.wait_for(process.stdout.readline(), 60):
            sys.exit("the worker did not start")
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


def _md5_uuid(text: str) -> UUID:
    return UUID(md5(text.encode(), usedforsecurity=False).hexdigest())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="journaled for each round")
    parser.add_argument("--stored", type=int, default=10_000_000, help="there before")
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(Path(folder), Sizes(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
