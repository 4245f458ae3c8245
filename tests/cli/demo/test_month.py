"""The demo month: its books agree, it fills a month, and it is seeded once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from gateway.cli.demo.calls import Caller, draw_day
from gateway.cli.demo.customers import CUSTOMERS, DEMO_EMAIL
from gateway.config import Config
from gateway.ledger.audit import audit_chain
from gateway.ledger.db.session import Database
from policies.audit_chain import ChainWalk
from policies.billing.payments import MAX_ATTEMPTS
from policies.pricing.receipts import RecordedCall, receipt
from policies.usage.counts import UsageSource
from policies.usage.recorded import read_usage
from tests.cli.demo.seeding import NOW, PEPPERS, demo_config, seed_demo

BOOKS = """
    SELECT u.email, c.current_credits AS balance, c.total_credits_used AS used,
           (SELECT coalesce(sum(amount), 0) FROM credit_ledger l WHERE l.user_id = u.id) AS ledger,
           (SELECT coalesce(sum(remaining), 0) FROM credit_grants g WHERE g.user_id = u.id) AS granted,
           (SELECT coalesce(sum(credits_charged), 0) FROM usage_tracking t WHERE t.user_id = u.id) AS charged
      FROM users u JOIN user_credits c ON c.user_id = u.id
"""
DAYS = """
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS calls
      FROM usage_tracking GROUP BY 1 ORDER BY 1
"""

Rows = Callable[..., Awaitable[Sequence[asyncpg.Record]]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return demo_config(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
async def month_url(new_database_url: Callable[[], Awaitable[str]], config: Config) -> str:
    url = await new_database_url()
    assert await seed_demo(url, config) is not None
    return url


@pytest.fixture(scope="module")
async def rows(month_url: str) -> AsyncIterator[Rows]:
    connection = await asyncpg.connect(month_url)
    yield connection.fetch
    await connection.close()


async def test_month_books_agree(rows: Rows) -> None:
    books = await rows(BOOKS)
    assert len(books) == len(CUSTOMERS)
    for book in books:
        assert book["ledger"] == book["granted"] == book["balance"] >= 0, book
        assert book["used"] == book["charged"], book
    assert sum(book["used"] for book in books) > 2_000


async def test_month_has_calls_of_every_day_and_fewer_on_weekends(rows: Rows) -> None:
    days = {row["day"]: row["calls"] for row in await rows(DAYS)}
    last_30 = [NOW.date() - timedelta(days=ago) for ago in range(1, 31)]
    assert all(days[day] for day in last_30)
    weekends = [days[day] for day in last_30 if day.isoweekday() > 5]
    weekdays = [days[day] for day in last_30 if day.isoweekday() <= 5]
    assert max(weekends) < min(weekdays)
    assert max(days) == NOW.date()
    assert not await rows("SELECT 1 FROM usage_tracking WHERE created_at > $1", NOW)


@pytest.mark.parametrize(
    ("passed", "calls"), [(timedelta(minutes=2), 20), (timedelta(hours=15), 70), (timedelta(days=1), 100)]
)
def test_today_has_calls_however_little_of_it_has_passed(config: Config, passed: timedelta, calls: int) -> None:
    day = NOW.replace(hour=0, minute=0)
    customer = replace(CUSTOMERS[0], calls=100)
    caller = Caller(customer, uuid4(), uuid4(), [uuid4()], credits=1_000_000)
    draw_day(caller, {route.name: route for route in config.routes}, day, day + passed, seed=1)
    instants = [datetime.fromtimestamp(int(line.split("\t", 2)[1]) / 1_000_000, UTC) for line in caller.lines]
    assert 0.6 * calls < len(instants) < 1.4 * calls
    assert instants == sorted(instants)
    assert day <= instants[0]
    assert instants[-1] < day + passed


async def test_month_calls_are_priced_as_the_routes_price_them(rows: Rows, config: Config) -> None:
    routes = {route.name: route for route in config.routes}
    unexplained = [row for row in await rows("SELECT * FROM usage_tracking LIMIT 500") if _is_unexplained(row, routes)]
    assert not unexplained


async def test_month_has_refusals_invoices_and_a_failed_payment(rows: Rows) -> None:
    assert {row["code"] for row in await rows("SELECT DISTINCT code FROM refused_requests")} >= {"insufficient_credits"}
    invoices = await rows("SELECT number, status, issued_at FROM invoices WHERE number IS NOT NULL ORDER BY number")
    assert [row["number"] for row in invoices] == list(range(1, len(invoices) + 1))
    assert {row["status"] for row in invoices} == {"paid", "open"}
    payments = await rows("SELECT status, error_message FROM payment_transactions")
    assert {row["status"] for row in payments} == {"completed", "failed", "refunded"}
    events = await rows("SELECT DISTINCT status, attempts FROM webhook_events WHERE next_attempt_at IS NULL")
    assert {(row["status"], row["attempts"]) for row in events} == {("processed", 1), ("failed", MAX_ATTEMPTS)}
    (demo,) = await rows("SELECT * FROM users WHERE email = $1", DEMO_EMAIL)
    assert demo["email_verified_at"] is not None


async def test_month_leaves_nothing_backdated_and_no_mail(rows: Rows) -> None:
    defaults = await rows(
        "SELECT DISTINCT column_default FROM information_schema.columns"
        " WHERE column_name = 'created_at' AND column_default IS NOT NULL"
    )
    assert [row["column_default"] for row in defaults] == ["now()"]
    assert not await rows("SELECT 1 FROM notice_deliveries")


async def test_month_audit_chain_is_whole(month_url: str) -> None:
    database = Database(month_url)
    async with database.read() as connection:
        walked = await audit_chain.verify(connection, audit_chain.keys_of(PEPPERS))
    await database.close()
    assert isinstance(walked, ChainWalk)


async def test_month_is_seeded_once(month_url: str, config: Config, rows: Rows) -> None:
    before = await rows("SELECT count(*) FROM usage_tracking")
    assert await seed_demo(month_url, config) is None
    assert await rows("SELECT count(*) FROM usage_tracking") == before


def _is_unexplained(row: Any, routes: Any) -> bool:
    columns = {name: row[name] for name in ("input_tokens", "cached_input_tokens", "output_tokens")}
    call = RecordedCall(
        row["outcome"],
        row["credits_charged"],
        row["product_count"],
        row["tokens_used"],
        row["response_time_ms"],
        row["model"],
        read_usage(columns, None, {}),
        None if row["usage_source"] is None else UsageSource(row["usage_source"]),
    )
    return row["credits_charged"] > 0 and not receipt(routes[row["endpoint"]], call).lines
