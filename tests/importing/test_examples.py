"""The three example databases, each from every kind of database, become what they must be; again, and after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.embedded.stores import Stores
from gateway.importing.sections import Section
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.ledger.payments.provider_subscriptions import sync_from_provider
from gateway.ledger.subscriptions import subscriptions
from policies.model import SubscriptionStatus
from tests.cli.commands import ENVIRON, _command, _forks, run
from tests.importing.conftest import NewSource
from tests.importing.examples import BEGAN, ENDS, EXAMPLES, Example, email, firebase, plan_permissions, write
from tests.importing.importing import balances, differences, owners, run_import, snapshot

USERS = 8
NewDatabase = Callable[[], Awaitable[str]]


@pytest.fixture
async def target(own_database_url: str) -> Database:
    return Database(own_database_url)


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.read() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def check(database: Database, example: Example) -> None:
    assert await balances(database) == example.balances
    assert await owners(database, list(example.keys)) == example.keys
    assert await differences(database) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
@pytest.mark.parametrize("shape", EXAMPLES)
async def test_example_is_imported_whole_and_once(
    shape: str, kind: str, target: Database, new_source: NewSource
) -> None:
    example, url = EXAMPLES[shape](USERS), await new_source(kind)
    await write(url, example.tables, keys=example.key_columns)
    first = await run_import(target, url, shape)
    assert (first.counts, first.problems) == (dict(example.counts), [])
    await check(target, example)
    before = await snapshot(target)
    second = await run_import(target, url, shape)
    assert (second.report.refused, set(second.counts.values())) == (0, {0})
    assert await snapshot(target) == before
    await target.close()


async def test_import_fills_the_fields_of_each_table(target: Database, new_source: NewSource) -> None:
    url = await new_source("sqlite")
    await write(url, plan_permissions(USERS).tables)
    await run_import(target, url, "plan-permissions")
    assert await rows(
        target,
        "SELECT p.id, p.price, p.credits_per_period, array_agg(n.name ORDER BY n.name) FROM subscription_plans p"
        " JOIN plan_permissions l ON l.plan_id = p.id JOIN permissions n ON n.id = l.permission_id GROUP BY p.id"
        " ORDER BY p.id",
    ) == [
        ("starter", Decimal("9.90"), 100, ["analyze", "read"]),
        ("team", Decimal("49.00"), 1000, ["analyze", "export", "read"]),
    ]
    assert await rows(
        target,
        "SELECT external_id, status, password_hash LIKE '$argon2id$%', created_at = '2025-01-31 18:00Z' FROM users"
        " WHERE external_id IN ('5', '6') ORDER BY 1",
    ) == [("5", "active", True, False), ("6", "suspended", None, True)]
    assert await rows(target, "SELECT DISTINCT provider, status, amount, currency FROM payment_transactions") == [
        ("imported", "completed", Decimal("9.90"), "USD")
    ]
    # The calls of the past cost what they cost, and nobody pays again.
    assert await rows(
        target,
        "SELECT outcome, count(*)::int, sum(credits_charged)::int, bool_and(api_key_id = ANY (SELECT id FROM api_keys))"
        " FROM usage_tracking GROUP BY 1 ORDER BY 1",
    ) == [("succeeded", 2 * USERS, USERS, True), ("upstream_error", USERS, 2 * USERS, True)]
    assert await rows(target, "SELECT count(*) FROM credit_ledger WHERE kind = 'usage'") == [(0,)]
    (purpose,) = await rows(target, "SELECT count(*) FROM audit_log WHERE actor = 'import:plan-permissions'")
    assert purpose != (0,)
    await target.close()


async def test_a_running_period_has_its_credits_once(target: Database, new_source: NewSource) -> None:
    """The period is granted in full and adjusted to the balance, so no renewal or webhook grants it again."""
    url = await new_source("sqlite")
    await write(url, plan_permissions(USERS).tables)
    await run_import(target, url, "plan-permissions")
    assert await rows(
        target,
        "SELECT count(*), count(*) FILTER (WHERE g.amount = c.period_credits AND g.expires_at = c.period_end)"
        " FROM user_credits c JOIN credit_grants g ON g.subscription_id = c.subscription_id"
        " AND g.period_start = c.period_start",
    ) == [(6, 6)]
    await target.close()


async def test_what_a_provider_says_after_an_import_grants_no_period_twice(
    target: Database, new_source: NewSource
) -> None:
    """Its next message of the same period finds that the period has its credits; the next period gets its own."""
    example, url = firebase(USERS), await new_source("sqlite")
    await write(url, example.tables, keys=example.key_columns)
    await run_import(target, url, "firebase")
    start, end = BEGAN.replace(tzinfo=UTC), ENDS.replace(tzinfo=UTC)
    async with target.transaction() as connection:
        found = await subscriptions.get_by_provider(connection, "stripe", "sub_fb1")
        assert found is not None
        for period, gained in (((start, end), 0), ((end, end + timedelta(days=30)), 500)):
            await sync_from_provider(
                connection,
                found.id,
                status=SubscriptionStatus.ACTIVE,
                period_start=period[0],
                period_end=period[1],
                cancel_at_period_end=False,
                quantity=1,
                now=period[0] + timedelta(days=11),
                actor="provider:stripe",
            )
            balance = await grants.get_balance(connection, found.user_id)
            assert balance is not None
            assert balance.current_credits == example.balances[email(1)] + gained
    await target.close()


@pytest.mark.parametrize("broken_at", [Section.SUBSCRIPTIONS, Section.CREDITS])
async def test_an_import_that_broke_off_is_resumed(broken_at: Section, target: Database, new_source: NewSource) -> None:
    example, url = plan_permissions(USERS), await new_source("sqlite")
    await write(url, example.tables)

    def breaks(section: Section, done: int, total: int) -> None:
        if section is broken_at and done:
            raise ConnectionAbortedError(f"{done} of {total}")

    with pytest.raises(ConnectionAbortedError):
        await run_import(target, url, "plan-permissions", progress=breaks)
    assert await differences(target) == []
    resumed = await run_import(target, url, "plan-permissions")
    assert resumed.problems == []
    await check(target, example)
    await target.close()


async def test_the_command_imports_beside_a_gateway_and_survives_its_kill(
    own_database_url: str, stores: Stores, new_source: NewSource, tmp_path: Path
) -> None:
    example, url = plan_permissions(12), await new_source("sqlite")
    await write(url, example.tables)
    environ = {
        "GATEWAY_DATABASE__URL": own_database_url,
        "GATEWAY_REDIS__URL": stores.redis_url,
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_KEY_PEPPER": "p" * 32,
    }
    (tmp_path / "gateway.yaml").write_text("plans: []\n")
    command = ("import", url, "--preset", "plan-permissions", "--json", "--config", str(tmp_path / "gateway.yaml"))
    target = Database(own_database_url)
    await _kill_after_first_batch(command, environ, target, tmp_path)
    answer = await run(*command, environ=environ)
    summary = json.loads(answer.out.splitlines()[-1])
    assert (answer.code, answer.err) == (0, "")
    assert summary["reconciled"]["differences"] == 0
    assert {name: each["read"] - each["refused"] for name, each in summary["sections"].items()} == dict(example.counts)
    assert await balances(target) == example.balances
    await target.close()


async def _kill_after_first_batch(
    command: tuple[str, ...], environ: dict[str, str], target: Database, folder: Path
) -> None:
    arguments = (command, ENVIRON | environ, folder / "out", folder / "err")
    process = _forks.Process(target=_command, args=arguments)
    process.start()
    while process.exitcode is None and not await balances(target):  # noqa: ASYNC110 - another process has no event
        await asyncio.sleep(0.01)
    if process.pid is not None and process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.join)
