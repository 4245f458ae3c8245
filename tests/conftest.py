"""Real stores for the whole test session. Tests share them, so each uses ids of its own and wipes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.embedded.stores import Stores
from gateway.ledger.db import schema
from gateway.ledger.db.session import Database

# Its default shows local variables in each traceback, and takes a third of a second of CPU for it.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# What starts whole installations and hurts them. It comes first, one test after the other: their faults have deadlines.
FAULTS = (Path("guarantees/chaos"), Path("guarantees/e2e"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests a process of the run takes together: all the faults, or one file."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("faults" if _is_fault(item) else item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: not _is_fault(item))


def _is_fault(item: pytest.Item) -> bool:
    folder = item.path.relative_to(Path(__file__).parent).parent
    return any(folder.is_relative_to(each) for each in FAULTS)


@pytest.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with await Stores.open(tmp_path_factory.mktemp("stores"), durable=False) as running:
        async with Redis.from_url(running.redis_url) as client:
            await client.config_set("auto-aof-rewrite-percentage", 0)  # it is thrown away: nobody keeps its file small
        yield running


@pytest.fixture(scope="session")
async def database_url(stores: Stores) -> str:
    """An empty database of this session's own."""
    return _with_name(stores.database_url, await _create_database(stores.database_url, "template0"))


@pytest.fixture(scope="session")
def redis_url(stores: Stores) -> str:
    return stores.redis_url


@pytest.fixture(scope="session")
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
async def template_database(stores: Stores) -> str:
    """The name of a database that Alembic itself has migrated; copying it takes a tenth of migrating another."""
    name = await _create_database(stores.database_url, "template0")
    await schema.upgrade(_with_name(stores.database_url, name))
    return name


@pytest.fixture(scope="session")
async def migrated_url(stores: Stores, template_database: str) -> str:
    """A migrated database for the whole session."""
    return _with_name(stores.database_url, await _create_database(stores.database_url, template_database))


@pytest.fixture
async def own_database_url(stores: Stores, template_database: str) -> str:
    """A migrated database of one test's own, for what commits and counts all rows."""
    return _with_name(stores.database_url, await _create_database(stores.database_url, template_database))


@pytest.fixture(scope="session")
async def database(migrated_url: str) -> AsyncIterator[Database]:
    opened = Database(migrated_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def pristine_database(stores: Stores, template_database: str) -> AsyncIterator[Database]:
    """A migrated database in which nobody commits."""
    opened = Database(_with_name(stores.database_url, await _create_database(stores.database_url, template_database)))
    yield opened
    await opened.close()


@pytest.fixture
async def connection(pristine_database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction in a database that is otherwise empty, rolled back at the end of the test."""
    async with pristine_database.transaction() as connection:
        yield connection
        await connection.rollback()


async def _create_database(url: str, template: str) -> str:
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await connection.close()
    return name


def _with_name(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"
