"""What a backup and its restore cost: seconds, memory and bytes, for a database with many usage rows and accounts.

`python -m benchmarks.backups --rows 5000000 --accounts 100000`. Stores of its own. The commands are those that an
operator runs: `gateway backup`, `gateway restore` into a second database, `gateway reconcile` of it, each a process.
The rows are of six months and charge one credit each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.machine import describe
from gateway.clock import now
from gateway.embedded.stores import Stores
from gateway.ledger.db import bulk_copy, month_partitions, schema
from gateway.ledger.db.month_partitions import MonthPartition, month_before
from gateway.ledger.db.session import Database

MONTHS = 6
GIVEN = 1_000_000
_SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}

# Account i has the calls whose number leaves i behind, so each has called equally often.
_ACCOUNTS = """
    WITH people AS (
         INSERT INTO users (id, email, name)
         SELECT md5('account ' || i)::uuid, i || '@example.com', 'Customer ' || i FROM generate_series(0, $1::int - 1) i
         RETURNING id),
    keyed AS (
         INSERT INTO api_keys (id, user_id, prefix, last4, key_hash, pepper_version)
         SELECT md5('key ' || id)::uuid, id, 'gw_live_ab', 'wxyz', sha256(id::text::bytea), 1 FROM people),
    given AS (
         INSERT INTO credit_grants (id, user_id, source, amount, remaining, effective_at)
         SELECT gen_random_uuid(), id, 'purchase', $3::bigint, $3::bigint - $2::bigint, now() FROM people),
    granted AS (
         INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor)
         SELECT id, 'grant', $3::bigint, $3::bigint, 'bench' FROM people),
    charged AS (
         INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, metadata)
         SELECT id, 'usage', -$2::bigint, $3::bigint - $2::bigint, 'worker:usage_writer',
                jsonb_build_object('requests', $2::bigint) FROM people)
    INSERT INTO user_credits (user_id, current_credits, total_credits_used, total_credits_purchased)
    SELECT id, $3::bigint - $2::bigint, $2::bigint, $3::bigint FROM people
"""
_USAGE = """
    INSERT INTO usage_tracking (
           request_id, created_at, user_id, api_key_id, plan_id, endpoint, method, path, usage_type, outcome,
           status_code, credits_charged, product_count, model, input_tokens, output_tokens, usage_source,
           request_bytes, response_bytes, response_time_ms, upstream_time_ms, client_ip, metadata)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3)
            || '8' || substr(md5(i::text), 4, 15))::uuid,
           at, md5('account ' || i % $2)::uuid, md5('key ' || i % $2)::uuid, 'pro', 'chat', 'POST',
           '/v1/chat/completions', 'ai_generation', 'succeeded', 200, 1, 1, 'gpt-5.6-terra', 900 + i % 1000, i % 700,
           'reported', 512 + i % 4096, 2048 + i % 8192, 35 + i % 900, 30 + i % 800, '203.0.113.' || i % 250,
           jsonb_build_object('balance_after', $3::bigint - i / $2)
      FROM generate_series(0, $1::bigint - 1) i,
           LATERAL (SELECT $4::timestamptz + ($5::timestamptz - $4::timestamptz) * (i / $1::float8) AS at) t
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command said, how long it took, and the most memory that it had."""

    said: dict[str, Any]
    seconds: float
    peak_bytes: int


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=500_000)
    arguments.add_argument("--accounts", type=int, default=10_000)
    sizes = arguments.parse_args()
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        async with await Stores.open(Path(folder), durable=True) as stores:
            await _measure(Path(folder), stores, rows=sizes.rows, accounts=sizes.accounts)


async def _measure(folder: Path, stores: Stores, *, rows: int, accounts: int) -> None:
    began = time.perf_counter()
    await _fill(stores.database_url, rows - rows % accounts, accounts=accounts)
    print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
    restored = f"{stores.database_url.rpartition('/')[0]}/restored"
    before = await _execute(stores.database_url, "CREATE DATABASE restored", "SELECT pg_database_size('gateway')")
    file = folder / "backup.zip"
    first = _config(folder / "first.yaml", stores.database_url, stores.redis_url)
    second = _config(folder / "second.yaml", restored, f"{stores.redis_url.rpartition('/')[0]}/1")
    print("| | seconds | rows/s | peak memory of the command |\n|---|---:|---:|---:|")
    backup = _show("`gateway backup`", _run("backup", str(file), "--json", "--config", str(first)), rows)
    _show("`gateway restore --check`", _run("restore", str(file), "--check", "--json", "--config", str(second)), rows)
    _show("`gateway restore`", _run("restore", str(file), "--json", "--config", str(second)), rows)
    books = _show("`gateway reconcile`", _run("reconcile", "--json", "--config", str(second)), rows)
    after = await _execute(restored, "SELECT pg_database_size('restored')")
    print(f"\nrows {backup.said['rows']:,}, file {_mb(backup.said['bytes'])}, database {_mb(before)},", end=" ")
    print(f"restored {_mb(after)}, accounts {books.said['accounts']:,}, differences {books.said['differences']}")


async def _fill(url: str, rows: int, *, accounts: int) -> None:
    """Loads as a restore does, without indexes, for that is not what is measured."""
    await schema.upgrade(url)
    until = now() - timedelta(days=1)
    since = month_before(until, MONTHS - 1)
    months = [MonthPartition("usage_tracking", month_before(until, back)) for back in range(MONTHS)]
    database = Database(url, pool_size=1, statement_timeout_seconds=0)
    async with database.transaction() as connection:
        await month_partitions.create(connection, months)
        rebuild = await bulk_copy.begin_load(connection, ["usage_tracking"])
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        await driver.execute(_ACCOUNTS, accounts, rows // accounts, GIVEN)
        await driver.execute(_USAGE, rows, accounts, GIVEN, since, until)
        await bulk_copy.end_load(connection, rebuild, sequences={})
    await database.close()
    await _execute(url, "VACUUM ANALYZE")


async def _execute(url: str, *statements: str) -> Any:
    """The value of the last statement."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
    finally:
        await connection.close()
    return value


def _config(path: Path, database_url: str, redis_url: str) -> Path:
    path.write_text(
        f"database: {{url: '{database_url}'}}\nredis: {{url: '{redis_url}'}}\ndata_dir: '{path.with_suffix('')}'\n"
        "upstreams: {}\nroutes: []\n"
    )
    return path


def _run(*arguments: str) -> Ran:
    command = [sys.executable, "-m", "gateway", *arguments]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | _SECRETS, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - as Popen was asked
        said = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}: {said}")
    return Ran(json.loads(said[-1]), time.perf_counter() - began, usage.ru_maxrss * 1024)


def _show(what: str, ran: Ran, rows: int) -> Ran:
    print(f"| {what} | {ran.seconds:.1f} | {rows / ran.seconds:,.0f} | {_mb(ran.peak_bytes)} |", flush=True)
    return ran


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    asyncio.run(main())
