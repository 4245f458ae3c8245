"""What an operator bounds in a source, or in the database here, ends no import; nor does its time zone move moments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from gateway.importing.mapping import SourceMapping
from gateway.importing.sections import Section
from gateway.ledger.db.session import Database
from tests.importing.conftest import NewSource
from tests.importing.examples import email, write
from tests.importing.importing import balances, run_import
from tests.support import databases


@pytest.mark.parametrize("is_dry", [False, True])
async def test_import_takes_as_long_as_it_takes_where_transactions_are_bounded(
    own_database_url: str, new_source: NewSource, is_dry: bool
) -> None:
    url = await new_source("postgresql")
    await write(url, {"people": [{"id": n, "mail": email(n)} for n in range(3)]})
    users = {"table": "people", "key": "id", "fields": {"email": "mail"}}
    mapping = SourceMapping.model_validate({"source": "acme", "users": users})
    for each in (url, own_database_url):
        await databases.bound_transactions(each)
    target = Database(own_database_url)

    def wait(_section: Section, _done: int, _total: int) -> None:
        time.sleep(1.2)

    done = await run_import(target, url, mapping, is_dry=is_dry, progress=wait)
    assert (done.counts, done.problems) == ({"users": 3}, [])
    assert len(await balances(target)) == (0 if is_dry else 3)
    await target.close()


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("sqlite", """extra = '{"a":true}' AND mail LIKE '%@%'"""),
        (
            "postgresql",
            """CAST(extra AS jsonb) @> '{"a":true}'::jsonb AND '10:30'::time > '10:29' AND mail LIKE '%@%'""",
        ),
        ("mysql", """extra = '{"a":true}' AND mail LIKE '%@%'"""),
    ],
)
async def test_condition_of_a_mapping_reaches_the_source_as_written(
    kind: str, where: str, own_database_url: str, new_source: NewSource
) -> None:
    url, target = await new_source(kind), Database(own_database_url)
    await write(url, {"people": [{"id": n, "mail": email(n), "extra": '{"a":true}' if n else "{}"} for n in range(3)]})
    users = {"table": "people", "key": "id", "where": where, "fields": {"email": "mail"}}
    done = await run_import(target, url, SourceMapping.model_validate({"source": "acme", "users": users}))
    assert (done.counts, done.problems) == ({"users": 2}, [])
    await target.close()


async def test_text_of_sqlite_that_is_no_utf8_refuses_its_row_alone(
    own_database_url: str, new_source: NewSource
) -> None:
    url, target = await new_source("sqlite"), Database(own_database_url)
    await write(url, {"people": [{"id": f"p{n}", "mail": email(n)} for n in range(3)]})
    engine = sa.create_engine(url)
    with engine.begin() as opened:
        opened.exec_driver_sql("UPDATE people SET mail = CAST(x'ff40652e636f6d' AS text) WHERE id = 'p1'")
    users = {"table": "people", "key": "id", "fields": {"email": "mail"}}
    mapping = SourceMapping.model_validate({"source": "acme", "users": users})
    done = await run_import(target, url, mapping)
    assert (done.counts, done.refused) == ({"users": 2}, [("users", "p1", "mail")])
    with engine.begin() as opened:
        opened.exec_driver_sql("UPDATE people SET id = CAST(x'ff' AS text) WHERE id = 'p1'")
    done = await run_import(target, url, mapping)
    assert done.refused == [("users", r"'\udcff'", "id")]
    engine.dispose()
    await target.close()


async def test_bounds_and_time_zone_of_a_mysql_server_change_nothing(
    own_database_url: str, new_source: NewSource
) -> None:
    url, target = await new_source("mysql"), Database(own_database_url)
    engine = sa.create_engine(sa.make_url(url).set(drivername="mysql+pymysql"))
    with engine.begin() as opened:
        for statement in (
            "SET time_zone = '+00:00'",
            "CREATE TABLE people (id int PRIMARY KEY, mail varchar(99), joined timestamp NULL)",
            "INSERT INTO people VALUES (1, 'ada@example.com', '2026-03-01 12:00:00')",
        ):
            opened.exec_driver_sql(statement)
    users = {"table": "people", "key": "id", "fields": {"email": "mail", "created_at": "joined"}}

    def wait(_section: Section, _done: int, _total: int) -> None:
        time.sleep(2.2)

    with _of_the_server(engine, wait_timeout="1", time_zone="'+05:30'"):
        mapping = SourceMapping.model_validate({"source": "acme", "users": users})
        done = await run_import(target, url, mapping, progress=wait)
    assert (done.counts, done.problems) == ({"users": 1}, [])
    async with target.read() as connection:
        created = await connection.scalar(sa.text("SELECT created_at FROM users"))
    assert created == datetime(2026, 3, 1, 12, tzinfo=UTC)
    await target.close()
    engine.dispose()


@contextmanager
def _of_the_server(engine: sa.Engine, **settings: str) -> Iterator[None]:
    """What new sessions have meanwhile."""
    with engine.connect() as opened:
        before = {name: opened.exec_driver_sql(f"SELECT @@GLOBAL.{name}").scalar_one() for name in settings}
        try:
            for name, value in settings.items():
                opened.exec_driver_sql(f"SET GLOBAL {name} = {value}")
            yield
        finally:
            for name, value in before.items():
                opened.exec_driver_sql(f"SET GLOBAL {name} = {value!r}")
