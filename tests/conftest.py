"""Real stores for the whole test session. Tests share them, so each uses ids of its own and deletes nothing.

Everything that is drawn in `make test` comes from fixed seeds; `make fuzz` and `make chaos` draw from a random one.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Never

import hypothesis
import pytest
import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

from gateway.embedded.postgres import Postgres
from gateway.embedded.stores import Stores
from gateway.embedded.valkey import Valkey
from gateway.ledger.db import schema, session
from gateway.ledger.db.session import Database
from gateway.meter import recovery
from tests.support import databases
from tests.support.sampling import IS_FULL, measured

# The default renderer shows local variables in each traceback, at a third of a second of CPU for each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

hypothesis.settings.register_profile("suite", derandomize=True, database=None)
hypothesis.settings.register_profile("random", print_blob=True)
hypothesis.settings.load_profile("random" if IS_FULL else "suite")

TESTS = Path(__file__).parent
PATIENCE_SECONDS = 60.0
# Tests that start whole installations and kill or freeze parts of them. They run first, one after another.
FAULTS = (
    "guarantees/attacks",
    "guarantees/chaos",
    "guarantees/e2e",
    "guarantees/processes",
    "guarantees/test_readme.py",
)
HISTORIES = "guarantees/histories"
# Tests that take long in one process, and so begin before others, the longest first.
LONG = (f"{HISTORIES}/test_year.py", "guarantees/fuzz/test_lives.py", HISTORIES, "guarantees/fuzz")
# Tests that need no store: `make unit`. Those of the readers need none either, but take as long as all of these.
UNIT = (
    "policies",
    "http",
    "config",
    "demo",
    "support",
    "proxy/request",
    "proxy/test_router.py",
)
# Where a run keeps its files. A database is made of 700, which take a disk ten times as long as memory; ext4 takes
# longer still for minutes after thousands were deleted, as each run does with those of its tests.
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own there
MEMORY_BYTES = 4 * 1024**3
STORE_OPENED = "a unit test opens a store; move it out of the folders of `UNIT` in tests/conftest.py"


def pytest_configure() -> None:
    if not IS_FULL and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Imports no other test module for `-m unit`: that takes as long as the unit tests themselves."""
    is_other = collection_path.is_file() and not _is_in(collection_path, UNIT)
    return True if config.option.markexpr == "unit" and is_other else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks unit tests, and puts first what takes long."""
    for item in items:
        if _is_in(item.path, UNIT):
            item.add_marker(pytest.mark.unit)
    items.sort(key=lambda item: (not _is_in(item.path, FAULTS), _place_among_long(item.path)))


def _place_among_long(path: Path) -> int:
    return next((place for place, long in enumerate(LONG) if _is_in(path, (long,))), len(LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if measured:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(measured))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["measured"] = measured


def pytest_testnodedown(node: WorkerController) -> None:
    """Takes what a process of `--numprocesses` has measured, for the summary."""
    measured.extend(getattr(node, "workeroutput", {}).get("measured", ()))


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist ships no types
    """Gives one process all faults, and each other file to the next process that is free, in the order of the items.

    Histories share nothing, so that each goes by itself.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if _is_in(TESTS.parent / file, FAULTS):
            return "faults"
        return nodeid if _is_in(TESTS.parent / file, (HISTORIES,)) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection() -> None:
    """Whatever is collected stays, so nothing is looked for in it."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leaves the thousands of collected tests out of garbage collections, which are made more rarely too.

    They took most of the time with the collected tests, and a tenth without.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@cache
def _is_in(path: Path, places: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(TESTS / place) for place in places)


@pytest.fixture(autouse=True)
def _unit_tests_open_no_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a unit test that opens a store, so that `make unit` stays what it says."""
    if request.node.get_closest_marker("unit"):
        assert "stores" not in request.fixturenames, STORE_OPENED
        for server in (Postgres, Valkey):
            monkeypatch.setattr(server, "start", _refuse_to_start)


async def _refuse_to_start(*_arguments: object) -> Never:
    pytest.fail(STORE_OPENED)


@pytest.fixture(scope="session", autouse=True)
def _patience_with_stores() -> Iterator[None]:
    """Stores may take as long as a machine that is busy with other things needs, but where a test says how long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "REENTER_SECONDS", PATIENCE_SECONDS)
        patch.setattr(session, "CONNECT_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        for bound in ("statement_timeout_seconds", "lock_timeout_seconds"):
            patch.setitem(Database.__init__.__kwdefaults__ or {}, bound, PATIENCE_SECONDS)
        yield


@pytest.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with await Stores.open(tmp_path_factory.mktemp("stores"), durable=False) as running:
        async with Redis.from_url(running.redis_url) as client:
            await client.config_set("auto-aof-rewrite-percentage", 0)  # its file is thrown away anyway
        yield running


@pytest.fixture(scope="session")
async def database_url(stores: Stores) -> str:
    """An empty database."""
    return await databases.create(stores.database_url)


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
    url = await databases.create(stores.database_url)
    await schema.upgrade(url)
    return url.rpartition("/")[2]


@pytest.fixture(scope="session")
async def migrated_url(new_database_url: Callable[[], Awaitable[str]]) -> str:
    """A migrated database for the whole session."""
    return await new_database_url()


@pytest.fixture(scope="session")
def new_database_url(stores: Stores, template_database: str) -> Callable[[], Awaitable[str]]:
    """Makes migrated databases."""
    return partial(databases.create, stores.database_url, template_database)


@pytest.fixture
async def own_database_url(new_database_url: Callable[[], Awaitable[str]]) -> AsyncIterator[str]:
    """A migrated database for one test: for tests that commit and count all rows."""
    url = await new_database_url()
    yield url
    await databases.remove(url)


@pytest.fixture(scope="session")
async def database(migrated_url: str) -> AsyncIterator[Database]:
    opened = Database(migrated_url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def pristine_database(new_database_url: Callable[[], Awaitable[str]]) -> AsyncIterator[Database]:
    """A migrated database in which nobody commits."""
    opened = Database(await new_database_url())
    yield opened
    await opened.close()


@pytest.fixture
async def connection(pristine_database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction in a database that is otherwise empty, rolled back at the end of the test."""
    async with pristine_database.transaction() as connection:
        yield connection
        await connection.rollback()
