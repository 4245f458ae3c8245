"""What reports of a month cost: seconds for each, over many calls, accounts, subscriptions, payments and refusals.

`python -m benchmarks.reports --calls 10000000 --accounts 100000`. Stores of its own. The calls are written through
usage_tracking, so that its triggers sum them; with `--keep` their rows stay, else they are dropped batch by batch,
since no report reads them. Each account has a subscription with three movements, two payments and eleven entries in the
ledger. An experiment that began with the month shares the accounts out among three variants.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sized
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.machine import describe
from gateway.clock import now
from gateway.embedded.stores import Stores
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db import month_partitions, schema
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.db.session import Database
from gateway.ledger.reports import experiments, months
from gateway.ledger.reports.rows import Report, month_of
from policies.billing.money import CreditValue
from policies.experiments.assignment import Arms, Variant

BATCH = 250_000
ROUNDS = 3
COUNTED = (
    *("usage_tracking", "usage_hours", "usage_months", "subscription_movements", "revenue_entries", "credit_ledger"),
)
VALUE = CreditValue("USD", Decimal(10_000))
PLANS = ("basic", "pro", "team", "scale")
ARMS = Arms("bench", tuple(Variant(plan, 1, (plan,)) for plan in PLANS[:3]))

# Ten routes, each with two models, four plans and four outcomes; accounts in no order.
_CALLS = """
    INSERT INTO usage_tracking (request_id, created_at, user_id, plan_id, endpoint, method, path, usage_type, outcome,
                                status_code, credits_charged, product_count, model, tokens_used, input_tokens,
                                output_tokens, usage_source, cost_usd, request_bytes, response_bytes, response_time_ms)
    SELECT gen_random_uuid(), $3::timestamptz + ($4::timestamptz - $3::timestamptz) * (i / $5::float8),
           md5('account ' || i * 7919 % $6)::uuid, ($7::text[])[1 + i % 4], 'route-' || i % 10, 'POST',
           '/v1/x', 'ai_generation', (ARRAY['succeeded', 'upstream_error', 'client_aborted', 'upstream_timeout'])[
               CASE WHEN i % 20 = 7 THEN 2 + (i / 20) % 3 ELSE 1 END],
           200, i % 50, 1, 'model-' || (i / 3) % 2, 900, 700, 200, 'reported', 0.000123, 512, 2048, 350
      FROM generate_series($1::bigint, $2::bigint - 1) i
"""
_ACCOUNTS = """
    INSERT INTO users (id, email) SELECT md5('account ' || i)::uuid, i || '@example.com'
      FROM generate_series(0, $1::int - 1) i
"""
_BALANCES = "INSERT INTO user_credits (user_id, current_credits) SELECT id, 500 FROM users"
_LEDGER = """
    INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, created_at)
    SELECT u.id, 'adjustment', 50, 50 * i, 'bench', $1::timestamptz + ($2::timestamptz - $1::timestamptz) * (i / 10.0)
      FROM generate_series(1, 10) i CROSS JOIN users u
"""
_CHARGES = """
    INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, created_at)
    SELECT id, 'usage', -(1 + ascii(email)), 0, 'bench', $1 FROM users
"""
_KEYS = """
    INSERT INTO api_keys (id, user_id, prefix, last4, key_hash)
    SELECT id, id, 'gw_live_ab', 'wxyz', sha256(id::text::bytea) FROM users LIMIT 1000
"""
_REFUSALS = """
    INSERT INTO refused_requests (api_key_id, endpoint, code, minute, count)
    SELECT k.id, 'route-1', c, date_trunc('minute', $1::timestamptz) + i * interval '7 minutes', 3
      FROM api_keys k CROSS JOIN unnest(ARRAY['rate_limited', 'insufficient_credits']) c
     CROSS JOIN generate_series(1, 250) i
"""
_SUBSCRIPTIONS = """
    INSERT INTO subscriptions (id, user_id, plan_id, plan_version, status, current_period_start, current_period_end,
                               period_anchor)
    SELECT id, id, ($1::text[])[1 + (row_number() OVER ()) % 4], 1, 'active', now(), now() + interval '30 days', now()
      FROM users
"""
_CHANGES = (
    "UPDATE subscriptions SET status = 'paused' WHERE id::text < '4'",
    "UPDATE subscriptions SET status = 'active', plan_id = 'pro' WHERE status = 'paused' AND id::text < '3'",
    "UPDATE subscriptions SET plan_id = 'scale' WHERE id::text > 'a'",
)
_PAYMENTS = """
    INSERT INTO payment_transactions (id, user_id, plan_id, provider, provider_payment_id, transaction_type, status,
                                      amount, currency, processed_at)
    SELECT gen_random_uuid(), u.id, ($1::text[])[1 + i], (ARRAY['stripe', 'manual'])[i], u.id || '-' || i,
           'subscription', 'completed', 29.99, 'USD', $2::timestamptz
      FROM users u CROSS JOIN generate_series(1, 2) i
"""


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    arguments.add_argument("--accounts", type=int, default=10_000)
    arguments.add_argument("--keep", action="store_true", help="keep the rows of calls: about 0.6 KB each")
    sizes = arguments.parse_args()
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        async with await Stores.open(Path(folder), durable=False) as stores:
            await _measure(stores.database_url, calls=sizes.calls, accounts=sizes.accounts, keeps=sizes.keep)


async def _measure(url: str, *, calls: int, accounts: int, keeps: bool) -> None:
    await schema.upgrade(url)
    month = MonthPartition("usage_tracking", now().replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    database = Database(url, pool_size=1, statement_timeout_seconds=0)
    async with database.transaction() as connection:
        await month_partitions.create_missing(connection, now=now())
        for number, plan_id in enumerate(PLANS, 1):
            await plans.create(connection, PlanTerms(name=plan_id, price=Decimal(10 * number)), plan_id=plan_id)
    driver = await asyncpg.connect(url)
    await _fill(driver, accounts=accounts, since=month.begins)
    await driver.close()
    await _call(url, month, calls=calls, accounts=accounts, keeps=keeps)
    opened = month_of(now())
    async with database.transaction() as connection:
        began = time.perf_counter()
        await months.close(connection, opened, value=VALUE)
        print(f"closing the month: {time.perf_counter() - began:.2f} s\n", flush=True)
        await connection.rollback()
    print("| report | rows | seconds, the least and the most of three | CPU |\n|---|---:|---:|---:|")
    for report in Report:
        await _show(database, report, partial(months.get, report=report, month=opened, value=VALUE))
    async with database.read() as connection:
        began = time.perf_counter()
        await months.list_months(connection, now=now())
    print(f"| months | | {time.perf_counter() - began:.3f} | |")
    since = month.begins
    await _show(database, "an experiment", lambda each: experiments.outcomes(each, ARMS, since=since, until=now()))
    await database.close()


Read = Callable[[AsyncConnection], Awaitable[Sized]]


async def _show(database: Database, name: str, read: Read) -> None:
    took, used = [], []
    for _ in range(ROUNDS):
        async with database.read() as connection:
            backend: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            began, before = time.perf_counter(), _cpu_seconds(backend)
            rows = await read(connection)
            took.append(time.perf_counter() - began)
            used.append(_cpu_seconds(backend) - before)
    print(f"| {name} | {len(rows)} | {min(took):.3f} to {max(took):.3f} | {min(used):.2f} |", flush=True)


def _cpu_seconds(backend: int) -> float:
    """Of this process and of the server's, which another load of the machine does not change."""
    user, system = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[11:13]
    return time.process_time() + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def _fill(driver: asyncpg.Connection, *, accounts: int, since: datetime) -> None:
    began, until = time.perf_counter(), now()
    for statement, values in (
        (_ACCOUNTS, (accounts,)),
        (_BALANCES, ()),
        (_LEDGER, (since, until)),
        (_CHARGES, (until,)),
        (_KEYS, ()),
        (_REFUSALS, (since,)),
        (_SUBSCRIPTIONS, (list(PLANS),)),
        *((change, ()) for change in _CHANGES),
        (_PAYMENTS, (list(PLANS), until)),
    ):
        await driver.execute(statement, *values)
    print(f"accounts filled in {time.perf_counter() - began:.0f} s", flush=True)


async def _call(url: str, month: MonthPartition, *, calls: int, accounts: int, keeps: bool) -> None:
    """Each batch is of another connection, so that sums have shards, as of several workers."""
    began, until = time.perf_counter(), now()
    for first in range(0, calls, BATCH):
        driver = await asyncpg.connect(url)
        last = min(first + BATCH, calls)
        await driver.execute(_CALLS, first, last, month.begins, until, calls, accounts, list(PLANS))
        if last < calls and not keeps:
            await driver.execute(f"TRUNCATE {month.name}")
        await driver.close()
    seconds = time.perf_counter() - began
    driver = await asyncpg.connect(url)
    await driver.execute("VACUUM ANALYZE")
    counted = [
        f"{await driver.fetchval(f'SELECT count(*) FROM {table}'):,} {table}"  # noqa: S608 - names of tables
        for table in COUNTED
    ]
    await driver.close()
    print(f"{calls:,} calls written in {seconds:.0f} s; {', '.join(counted)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
