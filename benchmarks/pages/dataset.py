"""A database with many accounts and calls of 90 days, written as a restore writes: indexes and sums come last.

Some accounts call much and most little: of a million, the first has a thousandth of all calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import asyncpg

from gateway.clock import now
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db import bulk_copy, month_partitions, schema
from gateway.ledger.db.month_partitions import MonthPartition, month_before
from gateway.ledger.db.session import Database

DAYS, MONTHS = 90, 4
BATCH = 1_000_000
PLANS = ("basic", "growth", "team", "scale")

_ACCOUNT = "md5('account ' || {})::uuid"
_CALLER = _ACCOUNT.format("floor($7::int * power((hashint8(i) & 2147483647) / 2147483648.0, 2))::int")
_ACCOUNTS = (
    f"""
    INSERT INTO users (id, email, name, company, external_id, email_verified_at, created_at)
    SELECT {_ACCOUNT.format("i")}, 'person' || i || '@example.com', 'Person ' || i, 'Company ' || i % 50000,
           'customer-' || i, now(), now() - i * interval '1 second'
      FROM generate_series(0, $1::int - 1) i
    """,  # noqa: S608 - made of constants
    """
    INSERT INTO api_keys (id, user_id, name, prefix, last4, key_hash, pepper_version)
    SELECT md5('key ' || id)::uuid, id, 'production', 'gw_live_' || substr(id::text, 1, 2), substr(id::text, 33, 4),
           sha256(id::text::bytea), 1
      FROM users
    """,
    """
    INSERT INTO subscriptions (id, user_id, plan_id, plan_version, status, current_period_start, current_period_end,
                               period_anchor)
    SELECT id, id, ($1::text[])[1 + (row_number() OVER ()) % 4], 1, 'active', now() - interval '9 days',
           now() + interval '21 days', now() - interval '9 days'
      FROM users
    """,
    """
    INSERT INTO credit_grants (id, user_id, source, amount, remaining, effective_at)
    SELECT gen_random_uuid(), id, (ARRAY['plan', 'purchase'])[1 + i], 5000000, 4000000, now()
      FROM users CROSS JOIN generate_series(0, 1) i
    """,
    """
    INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, created_at)
    SELECT id, 'adjustment', 800000, 800000 * i, 'bench', now() - (10 - i) * interval '9 days'
      FROM users CROSS JOIN generate_series(1, 10) i
    """,
    """
    INSERT INTO user_credits (user_id, current_credits, total_credits_used, period_credits, period_start, period_end,
                              subscription_id)
    SELECT id, 8000000, 0, 5000000, now() - interval '9 days', now() + interval '21 days', id FROM users
    """,
    """
    INSERT INTO payment_transactions (id, user_id, plan_id, provider, provider_payment_id, transaction_type, status,
                                      amount, currency, processed_at, created_at)
    SELECT gen_random_uuid(), id, 'basic', 'stripe', 'pi_' || id || i, 'subscription',
           (ARRAY['completed', 'failed'])[1 + i], 29.99, 'USD', at, at
      FROM users CROSS JOIN generate_series(0, 1) i, LATERAL (SELECT now() - random() * interval '54 days' AS at) t
    """,
    """
    INSERT INTO refused_requests (api_key_id, endpoint, code, minute, count)
    SELECT k.id, 'route-1', 'rate_limited', date_trunc('minute', now()) - i * interval '77 minutes', 3
      FROM (SELECT id FROM api_keys LIMIT 20000) k CROSS JOIN generate_series(1, 50) i
    """,
    """
    INSERT INTO webhook_events (id, provider, provider_event_id, event_type, payload, status, attempts, created_at)
    SELECT gen_random_uuid(), 'stripe', 'evt_' || i, 'invoice.paid', '{}', 'processed', 1,
           now() - i * interval '7 seconds'
      FROM generate_series(1, 500000) i
    """,
)
_CALLS = f"""
    INSERT INTO usage_tracking (
           request_id, created_at, user_id, api_key_id, subscription_id, plan_id, endpoint, method, path, usage_type,
           outcome, status_code, credits_charged, product_count, model, tokens_used, input_tokens, cached_input_tokens,
           output_tokens, usage_source, cost_usd, request_bytes, response_bytes, response_time_ms, upstream_time_ms,
           client_ip)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3)
            || '8' || substr(md5(i::text), 4, 15))::uuid,
           at, account, md5('key ' || account)::uuid, account, ($6::text[])[1 + i % 4], 'route-' || i % 10, 'POST',
           '/v1/chat/completions', 'ai_generation',
           CASE WHEN i % 20 = 7 THEN (ARRAY['upstream_error', 'client_aborted', 'upstream_timeout'])[1 + (i / 20) % 3]
                ELSE 'succeeded' END,
           200, i % 50, 1, 'model-' || (i / 3) % 8, 900 + i % 700, 700 + i % 500, i % 300, 200 + i % 200, 'reported',
           0.000123, 512 + i % 4096, 2048 + i % 8192, 35 + i % 900, 30 + i % 800, '203.0.113.' || i % 250
      FROM generate_series($1::bigint, $2::bigint - 1) i,
           LATERAL (SELECT $4::timestamptz + ($5::timestamptz - $4::timestamptz) * (i / $3::float8) AS at,
                           {_CALLER} AS account) t
"""  # noqa: S608 - made of constants
_SUMS = {"usage_hours": "0020_usage_hours", "usage_months": "0022_reports"}


async def fill(url: str, *, accounts: int, calls: int) -> None:
    """Fills an empty database."""
    await schema.upgrade(url)
    until = now()
    months = [MonthPartition("usage_tracking", month_before(until, back)) for back in range(MONTHS)]
    database = Database(url, pool_size=1, statement_timeout_seconds=0)
    async with database.transaction() as connection:
        await month_partitions.create(connection, months)
        for number, plan_id in enumerate(PLANS, 1):
            await plans.create(connection, PlanTerms(name=plan_id.title(), price=Decimal(10 * number)), plan_id=plan_id)
    async with database.transaction() as connection:
        rebuild = await bulk_copy.begin_load(connection, ["usage_tracking"])
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        for statement in _ACCOUNTS:
            values: list[Any] = (
                [accounts] if "$1::int" in statement else [list(PLANS)] if "$1::text[]" in statement else []
            )
            await _run(driver, statement, values)
        for first in range(0, calls, BATCH):
            last = min(first + BATCH, calls)
            values = [first, last, calls, until - timedelta(days=DAYS), until, list(PLANS), accounts]
            await _run(driver, _CALLS, values, what=f"calls to {last:,}")
        await bulk_copy.end_load(connection, rebuild, sequences={})
    await database.close()
    driver = await asyncpg.connect(url)
    for table, module in _SUMS.items():
        add: str = import_module(f"migrations.versions.{module}")._add("(SELECT 1::bigint AS n, * FROM usage_tracking)")  # noqa: SLF001
        await _run(driver, add, [], what=table)
    await _run(driver, "VACUUM ANALYZE", [], what="vacuum")
    await driver.close()


async def _run(driver: asyncpg.Connection, statement: str, values: Sequence[Any], *, what: str = "") -> None:
    began = time.perf_counter()
    await driver.execute(statement, *values, timeout=None)
    shown = what or " ".join(statement.split()[2:3])
    print(f"{shown}: {time.perf_counter() - began:.0f} s", flush=True)
