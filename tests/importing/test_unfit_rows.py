"""Rows that do not fit are reported one by one, and stop neither the others nor, unless strict, the import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from gateway.api.account.records.usage import receipt
from gateway.importing.importer import RowsRefused
from gateway.importing.mapping import InvalidMapping, SourceMapping
from gateway.ledger.accounts import users
from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.ledger.usage.history import UsageFilter, list_usage
from tests.importing.conftest import NewSource
from tests.importing.examples import BEGAN, ENDS, NOW, Rows, firebase, plan_permissions, write
from tests.importing.importing import balances, differences, run_import, snapshot
from tests.support.sampling import scaled

USERS = 8
# By section: the table, and what is wrong of a row, with the column that is named and a part of the reason.
BROKEN: Mapping[str, tuple[str, list[tuple[dict[str, Any], str | None, str]]]] = {
    "plans": (
        "subscription_plans",
        [
            ({"price": "free"}, "price", "is no number"),
            ({"price": "-1"}, "price", "is negative"),
            ({"price": "9.999"}, "price", "is no amount of USD: 9.999"),
            ({"name": None}, "name", "is required, and missing"),
            ({"credits": 1.5}, "credits", "is no whole number"),
        ],
    ),
    "users": (
        "users",
        [
            ({"email": "nobody"}, "email", "is no e-mail address"),
            ({"email": None}, "email", "is required, and missing"),
            ({"email": "CUSTOMER1@example.com"}, "email", "another account has this address"),
            ({"created_at": "yesterday"}, "created_at", "is no time"),
            ({"name": "a\0b"}, "name", "holds a NUL character"),
            ({"is_active": "perhaps"}, "is_active", "is not in `map`"),
        ],
    ),
    "subscriptions": (
        "subscriptions",
        [
            ({"user_id": 4, "plan_id": 99}, "plan_id", "refers to plan 99"),
            ({"user_id": 999}, "user_id", "refers to user 999"),
            ({"user_id": 4, "status": "happy"}, "status", "is none of"),
            ({"user_id": 1}, "status", "the account has another current subscription"),
            ({"user_id": 4, "current_period_end": BEGAN - timedelta(1)}, "current_period_end", "is not after"),
            (
                {"user_id": 4, "current_period_start": BEGAN - timedelta(90), "current_period_end": BEGAN},
                "current_period_end",
                "is active, but its period ended",
            ),
        ],
    ),
    "credits": (
        "user_credits",
        [
            ({"user_id": 999, "balance": 5}, "user_id", "refers to user 999"),
            ({"user_id": 998, "balance": "many"}, "balance", "is no number"),
            ({"user_id": 997, "balance": 10**15}, "balance", "is beyond"),
        ],
    ),
    "keys": (
        "api_keys",
        [
            ({"key": "short"}, "key", "is shorter than 16"),
            ({"key": None}, "digest", "is missing, and so is the key itself"),
            ({"key": "gw_live_0000000000000000000000000"}, "key", "is no key of this gateway"),
            ({"user_id": 999}, "user_id", "refers to user 999"),
            ({}, None, "a key of this digest is here already"),
        ],
    ),
    "payments": (
        "payments",
        [
            ({"amount": -5}, "amount", "is negative"),
            ({"currency": "dollars"}, "currency", "is no currency"),
            ({"currency": "XTS"}, "currency", "is no currency in use: XTS"),
            ({"amount": "9.999"}, "amount", "is no amount of USD: 9.999"),
            ({"amount": "9.5", "currency": "jpy"}, "amount", "is no amount of JPY: 9.5"),
            ({"created_at": NOW + timedelta(30)}, "created_at", "in the future"),
            ({"status": "maybe"}, "status", "is none of"),
            ({"plan_id": 99}, "plan_id", "refers to plan 99"),
        ],
    ),
    "usage": (
        "usage",
        [
            ({"created_at": "1999-01-01"}, "created_at", "is before 2000"),
            ({"created_at": NOW + timedelta(30)}, "created_at", "in the future"),
            ({"credits_used": -1}, "credits_used", "is negative"),
            ({"user_id": 999}, "user_id", "refers to user 999"),
            ({"status_code": 70_000}, "status_code", "is no HTTP status"),
        ],
    ),
}


@pytest.fixture(scope="module")
async def books(new_database_url: Callable[[], Awaitable[str]]) -> AsyncIterator[Database]:
    """A database for all examples of a property."""
    opened = Database(await new_database_url())
    yield opened
    await opened.close()


@pytest.fixture
async def target(own_database_url: str) -> Database:
    return Database(own_database_url)


def broken_tables() -> tuple[dict[str, Rows], list[tuple[str, str, str | None, str]]]:
    """The tables with broken rows behind the others, and what must be said of each: (section, row, column, reason)."""
    tables, expected = dict(plan_permissions(USERS).tables), []
    for section, (table, rows) in BROKEN.items():
        first, *_ = tables[table]
        own = {"email": "x{}@example.com", "key": "acme_broken{}00000000000", "name": "Broken {}"}
        own = {name: form for name, form in own.items() if name in first and (name, table) != ("name", "api_keys")}
        for number, (wrong, column, reason) in enumerate(rows, start=900_000):
            fresh = {} if column is None else {name: form.format(number) for name, form in own.items()}
            tables[table] = [*tables[table], {**first, "id": number, **fresh, **wrong}]
            expected.append((section, str(number), column, reason))
    return tables, expected


async def write_loosely(url: str, tables: Mapping[str, Rows]) -> None:
    """SQLite keeps what is written, whatever the column's type: as text where it is no proper value."""
    loose = {
        name: [{column: None if value is None else str(value) for column, value in row.items()} for row in rows]
        for name, rows in tables.items()
    }
    await write(url, loose)


async def test_unfit_rows_are_named_and_the_others_imported(target: Database, new_source: NewSource) -> None:
    tables, expected = broken_tables()
    url = await new_source("sqlite")
    await write_loosely(url, tables)
    planned = await run_import(target, url, "plan-permissions", is_dry=True)
    assert await balances(target) == {}
    done = await run_import(target, url, "plan-permissions")
    assert sorted(done.refused, key=str) == sorted(((a, b, c) for a, b, c, _ in expected), key=str)
    by_row = {(str(each.section), each.row): each.reason for each in done.problems}
    for section, row, _, reason in expected:
        assert reason in by_row[section, row]
    assert done.counts == plan_permissions(USERS).counts
    assert (planned.problems, planned.counts) == (done.problems, done.counts)
    assert await balances(target) == plan_permissions(USERS).balances
    assert await differences(target) == []
    await target.close()


@pytest.mark.parametrize(("currency", "column"), [("xxx", "code"), ("jpy", "price")])
async def test_plan_that_nobody_could_pay_is_refused(
    currency: str, column: str, target: Database, new_source: NewSource
) -> None:
    url = await new_source("sqlite")
    await write(url, {"offers": [{"id": 1, "name": "Odd", "price": Decimal("9.90"), "code": currency}]})
    plans = {"table": "offers", "fields": {"name": "name", "price": "price", "currency": "code"}}
    done = await run_import(target, url, SourceMapping.model_validate({"source": "acme", "plans": plans}))
    assert done.refused == [("plans", "1", column)]
    await target.close()


async def test_a_strict_import_stops_before_it_writes_the_batch(target: Database, new_source: NewSource) -> None:
    tables = dict(plan_permissions(USERS).tables)
    tables["users"] = [*tables["users"], {**tables["users"][0], "id": 900, "email": "nobody"}]
    url = await new_source("sqlite")
    await write(url, tables)
    with pytest.raises(RowsRefused, match="users row 900: is no e-mail address"):
        await run_import(target, url, "plan-permissions", is_strict=True)
    assert await balances(target) == {}
    await target.close()


async def test_subscription_of_an_unnamed_provider_is_not_taken_for_one_of_ours(
    target: Database, new_source: NewSource
) -> None:
    tables = dict(firebase(USERS).tables)
    first, *others = tables["user_subscriptions"]
    url = await new_source("sqlite")
    await write(
        url, {**tables, "user_subscriptions": [{**first, "provider": None}, *others]}, keys=firebase(USERS).key_columns
    )
    done = await run_import(target, url, "firebase")
    (problem,) = (each for each in done.problems if str(each.section) == "subscriptions")
    assert (problem.row, problem.column) == (first["id"], "provider")
    assert "although there is a provider's id" in problem.reason
    await target.close()


async def test_several_balances_of_an_account_are_refused(target: Database, new_source: NewSource) -> None:
    tables = dict(plan_permissions(USERS).tables)
    tables["user_credits"] = [*tables["user_credits"], {"id": 900, "user_id": 4, "balance": 3}]
    url = await new_source("sqlite")
    await write(url, tables)
    done = await run_import(target, url, "plan-permissions")
    assert done.refused == [("credits", "4", "user_id"), ("credits", "900", "user_id")]
    await target.close()


async def test_a_later_import_books_what_has_changed_since(target: Database, new_source: NewSource) -> None:
    """What was granted here meanwhile stays; an account that was deleted here is not imported again."""
    tables = dict(plan_permissions(USERS).tables)
    url, later = await new_source("sqlite"), await new_source("sqlite")
    await write(url, tables)
    await run_import(target, url, "plan-permissions")
    async with target.transaction() as connection:
        query = text("SELECT id FROM users WHERE external_id = :id")
        spender, deleted = [await connection.scalar(query, {"id": number}) for number in ("1", "2")]
        await grants.grant(connection, spender, amount=1000, source="promo", reason="test", actor="admin:root")
        await users.delete(connection, deleted)
    tables["user_credits"] = [{**row, "balance": row["balance"] + 5} for row in tables["user_credits"]]
    await write(later, tables)
    done = await run_import(target, later, "plan-permissions")
    assert done.refused == [("credits", "2", "user_id"), *(("usage", str(2000 + n), "user_id") for n in range(3))]
    assert (done.counts["users"], done.counts["keys"]) == (0, 0)
    found = await balances(target)
    assert (found["customer1@example.com"], found["customer3@example.com"]) == (13 + 5 + 1000, 39 + 5)
    assert await differences(target) == []
    await target.close()


NUMBERS = st.one_of(st.integers(-(10**13), 10**13), st.integers(-50, 50), st.sampled_from([None, "", "x", "7", "1.5"]))
A_ROW = st.fixed_dictionaries(
    {
        "balance": NUMBERS,
        "purchased": NUMBERS,
        "later": NUMBERS,
        "status": st.sampled_from(["active", "trialing", "past_due", "canceled", "unpaid", "paused", "?", None]),
        "plan": st.sampled_from(["metered", "rolling", "none"]),
        "length": st.sampled_from([-1, 5, 30, None]),
    }
)


@settings(
    max_examples=scaled(suite=4, full=300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(A_ROW, min_size=1, max_size=8))
async def test_whatever_the_source_has_the_books_agree(
    rows: list[dict[str, Any]], books: Database, tmp_path: Path
) -> None:
    """Imported twice, the second time with other balances: each accepted balance is there, and each book agrees."""
    number = uuid4().hex  # no address is taken by an example before
    name = f"s{number[:16]}"
    mapping = _mapping(name)
    ids = range(len(rows))
    tables: dict[str, Rows] = {
        "plans": [{"id": "metered", "rolls": "0"}, {"id": "rolling", "rolls": "1"}],
        "users": [{"id": n, "email": f"{number}.{n}@example.com"} for n in ids],
        "subs": [
            {
                "id": n,
                "plan": row["plan"],
                "status": row["status"],
                "start": BEGAN,
                "end": str(ENDS if row["length"] is None else BEGAN + timedelta(row["length"])),
            }
            for n, row in zip(ids, rows, strict=True)
        ],
    }
    for column in ("balance", "later"):
        path = tmp_path / f"{name}-{column}.db"
        held = [
            {"id": n, "balance": _written(row[column]), "purchased": _written(row["purchased"])}
            for n, row in zip(ids, rows, strict=True)
        ]
        await write(f"sqlite:///{path}", {**tables, "balances": held})
        done = await run_import(books, f"sqlite:///{path}", mapping)
        refused = {each.row for each in done.problems if each.section == "credits"}
        assert await differences(books) == []
        found = await balances(books)
        for n, row in zip(ids, rows, strict=True):
            if str(n) not in refused:
                assert found[f"{number}.{n}@example.com"] == int(row[column])
        before = await snapshot(books)
        await run_import(books, f"sqlite:///{path}", mapping)
        assert await snapshot(books) == before


def _written(value: object) -> str | None:
    return None if value is None else str(value)


def _mapping(name: str) -> SourceMapping:
    tables: dict[str, Any] = {
        "plans": {
            "table": "plans",
            "fields": {
                "id": "id",
                "name": "id",
                "price": {"value": 1},
                "credits_per_period": {"value": 20},
                "credits_rollover": "rolls",
            },
        },
        "users": {"table": "users", "fields": {"email": "email", "external_id": {"column": "email"}}},
        "subscriptions": {
            "table": "subs",
            "fields": {
                "user": "id",
                "plan": "plan",
                "status": "status",
                "current_period_start": "start",
                "current_period_end": "end",
            },
        },
        "credits": {"table": "balances", "fields": {"user": "id", "balance": "balance", "purchased": "purchased"}},
    }
    return SourceMapping.model_validate({"source": name, **tables})


async def test_imported_metadata_of_any_shape_has_a_receipt(target: Database, new_source: NewSource) -> None:
    url = await new_source("sqlite")
    odd = ('{"usage": {"prompt_tokens": 10}}', '{"seconds": "fast"}', '{"flags": null}', '{"balance_after": 12.5}')
    calls = [{"id": n, "user": 1, "at": BEGAN, "extra": each} for n, each in enumerate(odd)]
    await write(url, {"people": [{"id": 1, "mail": "ada@example.com"}], "calls": calls})
    usage = {"user": "user", "created_at": "at", "metadata": "extra"}
    tables = {"users": {"table": "people", "fields": {"email": "mail"}}, "usage": {"table": "calls", "fields": usage}}
    done = await run_import(target, url, SourceMapping.model_validate({"source": "acme", **tables}))
    assert done.counts["usage"] == len(odd)
    async with target.read() as connection:
        page = await list_usage(connection, UsageFilter())
    assert [receipt(row, None).computed for row in page.data] == ["free"] * len(odd)
    await target.close()


async def test_a_later_import_withdraws_keys_that_were_disabled_since(target: Database, new_source: NewSource) -> None:
    tables = dict(plan_permissions(USERS).tables)
    url, later = await new_source("sqlite"), await new_source("sqlite")
    await write(url, tables)
    await run_import(target, url, "plan-permissions")
    first, *others = tables["api_keys"]
    tables["api_keys"] = [{**first, "is_active": 0}, *({**each, "is_active": 1} for each in others)]
    await write(later, tables)
    assert (await run_import(target, later, "plan-permissions")).counts["keys"] == 1
    async with target.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM api_keys WHERE status = 'disabled'")) == 1
    assert (await run_import(target, later, "plan-permissions")).counts["keys"] == 0
    await target.close()


async def test_more_doubled_balances_than_can_be_named_end_the_import(
    target: Database, new_source: NewSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("source", "importer"):
        monkeypatch.setattr(f"gateway.importing.{module}.MOST_DUPLICATES", 1)
    tables = dict(plan_permissions(USERS).tables)
    tables["user_credits"] = [*tables["user_credits"], {"id": 900, "user_id": 4, "balance": 3}]
    url = await new_source("sqlite")
    await write(url, tables)
    with pytest.raises(InvalidMapping, match="several balances"):
        await run_import(target, url, "plan-permissions")
    await target.close()
