"""What an account and a call weigh: bytes in Valkey, rows and bytes in PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time

import asyncpg

from benchmarks.scale.installation import Installation

ROWS = 100_000
CALLING_SECONDS = 5
DRAINING_SECONDS = 60.0
_MONTHS = "SELECT inhrelid FROM pg_inherits WHERE inhparent = 'usage_tracking'::regclass"
_TABLE = f"SELECT sum(pg_table_size(inhrelid))::bigint FROM ({_MONTHS}) m"  # noqa: S608
_INDEXES = f"SELECT sum(pg_indexes_size(inhrelid))::bigint FROM ({_MONTHS}) m"  # noqa: S608
# Rows that calls have written, again and again under new ids in the order of time.
_COPY = """
    INSERT INTO usage_tracking (request_id, {columns})
    SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint + n / 3), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid, {columns}
      FROM (SELECT row_number() OVER () AS n, u.* FROM
                   (SELECT * FROM usage_tracking LIMIT 5000) u, generate_series(1, $1::int / 5000)) copied
"""


def report(installation: Installation, *, accounts: int) -> None:
    """Prints what was measured. The installation has no other load."""
    print("| | bytes |\n|---|---|")
    _accounts_in_valkey(installation, accounts)
    _calls_in_valkey(installation)
    asyncio.run(_rows_in_postgresql(installation))


def _accounts_in_valkey(installation: Installation, accounts: int) -> None:
    """What used_memory grows by when each account has called, and its calls are stored."""
    keys = installation.add_keys(accounts)
    before, calls = installation.cluster.used_bytes(), 0
    while calls < accounts:
        calls += installation.call(keys, seconds=CALLING_SECONDS, first=calls)
    _drain(installation)
    grown = (installation.cluster.used_bytes() - before) / accounts
    (master, *_) = installation.cluster.masters
    sampled = [key for key, _ in zip(master.scan_iter("gw:{p*}:a:*", count=1000), range(200), strict=False)]
    weights = [int(master.memory_usage(key) or 0) for key in sampled]
    print(
        f"| Valkey, an account that has called (`used_memory`, {accounts:,} accounts, {calls:,} calls) | {grown:,.0f} |"
    )
    print(f"| its hash alone (`MEMORY USAGE`, median of {len(weights)}) | {statistics.median(weights):,.0f} |")


def _calls_in_valkey(installation: Installation) -> None:
    """What a call adds to the journal while nobody writes it into PostgreSQL."""
    keys = installation.add_keys(64)
    installation.call(keys, seconds=2)
    _drain(installation)
    before = installation.cluster.used_bytes()
    _signal(installation, signal.SIGSTOP)
    try:
        calls = installation.call(keys, seconds=CALLING_SECONDS)
        grown = (installation.cluster.used_bytes() - before) / calls
    finally:
        _signal(installation, signal.SIGCONT)
    print(f"| Valkey, a call that waits for PostgreSQL ({calls:,} calls) | {grown:,.0f} |", flush=True)
    _drain(installation)


async def _rows_in_postgresql(installation: Installation) -> None:
    connection = await asyncpg.connect(installation.database_url)
    try:
        calls = await connection.fetchval("SELECT count(*) FROM usage_tracking")
        entries, weight = await connection.fetchrow(
            "SELECT count(*), pg_total_relation_size('credit_ledger') FROM credit_ledger WHERE kind = 'usage'"
        )
        columns = await connection.fetchval(
            """SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
                WHERE table_name = 'usage_tracking' AND table_schema = current_schema() AND is_generated = 'NEVER'
                  AND column_name <> 'request_id'"""
        )
        table, indexes = await connection.fetchval(_TABLE), await connection.fetchval(_INDEXES)
        await connection.execute(_COPY.format(columns=columns), ROWS, timeout=120)
        table, indexes = await connection.fetchval(_TABLE) - table, await connection.fetchval(_INDEXES) - indexes
    finally:
        await connection.close()
    print(f"| PostgreSQL, a usage row ({ROWS:,} rows) | {table / ROWS:,.0f} and {indexes / ROWS:,.0f} of indexes |")
    counted = f"{entries:,} of {calls:,} calls"
    print(f"| PostgreSQL, an entry of the ledger, with its indexes ({counted}) | {weight / entries:,.0f} |")


def _signal(installation: Installation, number: signal.Signals) -> None:
    for pid in installation.worker.pids:
        os.kill(pid, number)


def _drain(installation: Installation) -> None:
    """Returns once the journals are empty. Raises TimeoutError: what is measured then would have entries in it."""
    deadline = time.monotonic() + DRAINING_SECONDS
    while waiting := sum(map(_count_waiting, installation.cluster.masters)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{waiting:,} calls wait in the journals after {DRAINING_SECONDS:.0f} s")
        time.sleep(0.2)
    time.sleep(1.0)


def _count_waiting(master: object) -> int:
    keys = list(master.scan_iter("gw:{p*}:j", count=1000, _type="stream"))  # type: ignore[attr-defined] # redis-py's
    return sum(master.xlen(key) for key in keys)  # type: ignore[attr-defined]
