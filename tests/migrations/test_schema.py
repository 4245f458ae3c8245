"""The schema moves up and down, equals the tables in code, and refuses what it must."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

import migrations
from gateway.ledger.db import schema
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.db.tables import metadata
from tests.ledger.make import a_user
from tests.support import databases


async def test_the_schema_goes_up_down_to_nothing_and_up_again(empty_url: str) -> None:
    assert await schema.current(empty_url) is None
    assert await schema.upgrade(empty_url) == schema.head()
    assert await schema.downgrade(empty_url, "base") == "base"
    assert await _objects(empty_url) == {"alembic_version"}
    assert await schema.upgrade(empty_url) == schema.head() == await schema.current(empty_url)


async def test_upgrades_at_the_same_time_wait_for_each_other(empty_url: str) -> None:
    assert await asyncio.gather(*(schema.upgrade(empty_url) for _ in range(3))) == [schema.head()] * 3


async def test_upgrade_takes_as_long_as_it_takes_where_transactions_are_bounded(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade

    def upgrade_slowly(config: Config, revision: str) -> None:
        time.sleep(1.2)
        upgrade(config, revision)

    monkeypatch.setattr(command, "upgrade", upgrade_slowly)
    await databases.bound_transactions(empty_url)
    assert await schema.upgrade(empty_url) == schema.head()


async def test_a_database_of_an_unknown_revision_is_left_alone(empty_url: str) -> None:
    await schema.upgrade(empty_url)
    database = Database(empty_url)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(schema.UnknownRevision, match="revision 9999, which this version of the gateway does not know"):
        await schema.upgrade(empty_url)
    with pytest.raises(schema.UnknownRevision):
        await schema.downgrade(empty_url, "base")


async def test_a_failed_migration_changes_nothing(empty_url: str) -> None:
    database = Database(empty_url)
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE webhook_events (in_the_way int)"))
    await database.close()
    with pytest.raises(asyncpg.DuplicateTableError):
        await schema.upgrade(empty_url)
    assert await _objects(empty_url) == {"webhook_events"}


async def test_migrating_an_unreachable_database_says_so() -> None:
    with pytest.raises(DatabaseUnavailable):
        await schema.upgrade("postgresql://nobody@127.0.0.1:1/none")


async def test_a_new_migration_is_for_a_clone_follows_the_last_and_says_that_it_is_empty(
    tmp_path: Path, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(migrations.__file__).parent
    shutil.copytree(folder, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "__file__", str(tmp_path / "migrations" / "__init__.py"))
    before = schema.head()
    with pytest.raises(schema.UnknownRevision, match="is an installation"):
        schema.new("add colour")
    assert schema.head() == before
    (tmp_path / "pyproject.toml").touch()
    script = schema.new("add colour")
    assert script.parent == tmp_path / "migrations" / "versions"
    assert script.name == f"{int(before) + 1:04d}_add_colour.py"
    assert schema.head() == f"{int(before) + 1:04d}"
    with pytest.raises(NotImplementedError):
        await schema.upgrade(empty_url)
    assert await schema.upgrade(empty_url, before) == before


async def test_alembic_finds_no_difference_between_code_and_database(connection: AsyncConnection) -> None:
    def compare(sync: Connection) -> list[object]:
        options = {name: value for name, value in schema.COMPARISON.items() if name != "target_metadata"}
        return list(compare_metadata(MigrationContext.configure(sync, opts=options), metadata))

    assert await connection.run_sync(compare) == []


async def test_code_and_migrations_make_the_same_catalogue(empty_url: str, connection: AsyncConnection) -> None:
    """Alembic does not compare CHECKs, partition keys and index predicates; PostgreSQL's own catalogue tells."""
    database = Database(empty_url)
    async with database.transaction() as from_code:
        await from_code.run_sync(metadata.create_all)
        assert await _catalogue(from_code) == await _catalogue(connection)
    await database.close()


REFUSED = {
    "ck_users_status": "UPDATE users SET status = 'gone' WHERE id = :user",
    "ck_users_email_shape": "UPDATE users SET email = 'nobody' WHERE id = :user",
    "uq_users_email_lower": (
        "INSERT INTO users (id, email) SELECT gen_random_uuid(), upper(email) FROM users WHERE id = :user"
    ),
    "ck_subscription_plans_id_is_a_word": "INSERT INTO subscription_plans (id, name, price) VALUES ('pro/7', 'x', 1)",
    "ck_subscription_plans_price_not_negative": (
        "INSERT INTO subscription_plans (id, name, price) VALUES ('x', 'x', -1)"
    ),
    "ck_subscription_plans_requests_per_minute_not_negative": (
        "INSERT INTO subscription_plans (id, name, price, requests_per_minute) VALUES ('x', 'x', 1, -1)"
    ),
    "ck_subscription_plans_currency_iso_4217": (
        "INSERT INTO subscription_plans (id, name, price, currency) VALUES ('x', 'x', 1, 'dollars')"
    ),
    "ck_credit_ledger_amount_sign": (
        "INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor) VALUES (:user, 'usage', 1, 1, 'x')"
    ),
    "ck_credit_ledger_kind": (
        "INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor) VALUES (:user, 'gift', 1, 1, 'x')"
    ),
    "ck_credit_grants_remaining_within_amount": (
        "INSERT INTO credit_grants (id, user_id, source, amount, remaining, effective_at)"
        " VALUES (:user, :user, 'promo', 1, 2, now())"
    ),
    "ck_usage_tracking_outcome": (
        "INSERT INTO usage_tracking (request_id, created_at, user_id, endpoint, method, path, usage_type, outcome)"
        " VALUES (:user, now(), :user, 'a', 'GET', '/', 'x', 'fine')"
    ),
    "ck_outbox_user_unless_catalogue": "INSERT INTO outbox (kind, payload) VALUES ('account', '{}')",
    "ck_catalogue_one_row": "INSERT INTO catalogue (id, version) VALUES (2, 1)",
    "fk_credit_ledger_user_id": (
        "INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor)"
        " VALUES (gen_random_uuid(), 'grant', 1, 1, 'x')"
    ),
    "fk_user_credits_user_id": "DELETE FROM users WHERE id = :user",
}


@pytest.mark.parametrize("constraint", REFUSED)
async def test_the_schema_refuses(connection: AsyncConnection, constraint: str) -> None:
    user = await a_user(connection)
    with pytest.raises(IntegrityError, match=constraint):
        await connection.execute(text(REFUSED[constraint]), {"user": user.id} if ":user" in REFUSED[constraint] else {})


@pytest.mark.parametrize("rewrite", ["UPDATE {} SET actor = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("table", ["credit_ledger", "audit_log"])
async def test_books_are_append_only(connection: AsyncConnection, table: str, rewrite: str) -> None:
    with pytest.raises(IntegrityError, match=f"{table} is append-only"):
        await connection.execute(text(rewrite.format(table)))


_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S')"


async def _objects(url: str) -> set[str]:
    database = Database(url)
    async with database.read() as connection:
        names = await connection.scalars(text(_TABLES))
        found = set(names)
    await database.close()
    return found


async def _catalogue(connection: AsyncConnection) -> set[tuple[object, ...]]:
    rows = await connection.execute(
        text("""
        WITH ours AS (
             SELECT c.oid, c.relname FROM pg_class c
              WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                AND c.relname <> 'alembic_version')
        SELECT relname::text, conname::text, pg_get_constraintdef(k.oid)
          FROM pg_constraint k JOIN ours ON k.conrelid = ours.oid
        UNION ALL
        SELECT relname::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
          FROM pg_index JOIN ours ON indrelid = oid
        UNION ALL
        SELECT relname::text, attname::text, concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attidentity,
               pg_get_expr(adbin, adrelid), col_description(ours.oid, attnum))
          FROM pg_attribute JOIN ours ON attrelid = ours.oid
          LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT relname::text, pg_get_partkeydef(oid), obj_description(oid) FROM ours
    """)
    )
    return {tuple(row) for row in rows}


async def test_price_ids_in_the_columns_of_plans_become_a_history(empty_url: str) -> None:
    await schema.upgrade(empty_url, "0008")
    history: dict[str, list[str | None]] = {
        "pro": ["first", "first", "second", None, "third"],
        "team": ["second", "other"],
        "bare": [None],
    }
    database = Database(empty_url)
    async with database.transaction() as connection:
        for plan_id, ids in history.items():
            await _insert_plan(connection, plan_id, ids)
    await schema.upgrade(empty_url)
    query = "SELECT plan_id, external_id, first_version, last_version FROM plan_provider_prices ORDER BY 1, 3"
    async with database.read() as connection:
        rows = [tuple(row) for row in await connection.execute(text(query))]
    # Both plans had `second`; `pro` had it later.
    assert rows == [
        ("pro", "first", 1, 2),
        ("pro", "second", 3, 3),
        ("pro", "third", 5, None),
        ("team", "other", 2, None),
    ]
    await schema.downgrade(empty_url, "0008")
    async with database.read() as connection:
        found = await connection.scalars(text("SELECT stripe_price_id FROM subscription_plans"))
        assert set(found) == {"third", "other", None}
    await database.close()


async def _insert_plan(connection: AsyncConnection, plan_id: str, price_ids: list[str | None]) -> None:
    """As version 0.1 left it: a row for each version, a day apart."""
    plan = "INSERT INTO subscription_plans (id, name, version, price, stripe_price_id) VALUES (:id, :id, :n, 1, :price)"
    await connection.execute(text(plan), {"id": plan_id, "n": len(price_ids), "price": price_ids[-1]})
    version = """
        INSERT INTO plan_versions (plan_id, version, terms, created_at)
        SELECT :id, CAST(:n AS bigint), jsonb_build_object('stripe_price_id', CAST(:price AS text)),
               now() + CAST(:n AS bigint) * interval '1 day'
    """
    for number, price_id in enumerate(price_ids, start=1):
        await connection.execute(text(version), {"id": plan_id, "n": number, "price": price_id})
