"""The schema's version: reads it and moves it, with Alembic, from inside the program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

import migrations
from gateway.ledger.db.month_partitions import is_partition
from gateway.ledger.db.session import Database
from gateway.ledger.db.tables import metadata

BASE = "base"

# Any fixed number will do; it spells "schema". Held for the whole migration, so that of two nodes that start one waits.
ADVISORY_LOCK = int.from_bytes(b"schema", "big")

# Long enough for a queue of short transactions to pass, short enough not to stop the traffic behind a DDL lock.
DDL_LOCK_TIMEOUT = "5s"


class UnknownRevision(Exception):  # noqa: N818 - reads as the sentence it is
    """The database, or the caller, names a revision that this version of the program does not have."""


def _is_ours(_item: object, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
    return not (kind == "table" and name is not None and is_partition(name))


# What Alembic compares, and against what; partitions come and go by themselves.
COMPARISON: dict[str, Any] = {
    "target_metadata": metadata,
    "include_object": _is_ours,
    "compare_type": True,
    "compare_server_default": True,
}


def head() -> str:
    """The revision this version of the program works with."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise UnknownRevision("this installation has no migrations")
    return revision


async def current(url: str) -> str | None:
    """The revision the database is at; None for an empty one."""
    async with _connection(url) as connection:
        return await connection.run_sync(_revision_of)


async def upgrade(url: str, revision: str = "head") -> str:
    """Brings the database up to `revision`; gives the one it is then at. May raise UnknownRevision."""
    return await _migrate(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> str:
    """Takes the database back to `revision` (or "base", or "-1"). What the later ones held is lost."""
    return await _migrate(url, lambda config: command.downgrade(config, revision))


def new(name: str) -> Path:
    """Writes the next, empty migration; gives its path."""
    number = len(list(_scripts().walk_revisions())) + 1
    script = command.revision(_config(), message=name, rev_id=f"{number:04d}")
    if script is None or isinstance(script, list):
        raise UnknownRevision(f"no single migration was made for {name!r}")
    return Path(script.path)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision_of(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _migrate(url: str, step: Callable[[Config], None]) -> str:
    async with _connection(url) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        await connection.execute(text(f"SET LOCAL lock_timeout = '{DDL_LOCK_TIMEOUT}'"))
        return await connection.run_sync(_step_known, step)


def _step_known(connection: Connection, step: Callable[[Config], None]) -> str:
    config = _config()
    config.attributes["connection"] = connection
    before = _revision_of(connection)
    known = {script.revision for script in _scripts().walk_revisions()}
    if before is not None and before not in known:
        raise UnknownRevision(
            f"the database is at schema revision {before}, which this version of the gateway does not know"
            f" (its newest is {head()}): run the version that migrated it, or a newer one"
        )
    step(config)
    return _revision_of(connection) or BASE


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[AsyncConnection]:
    """One connection without time limits: a migration takes as long as it takes."""
    database = Database(url, pool_size=1, statement_timeout_seconds=0, lock_timeout_seconds=0)
    try:
        async with database.transaction() as connection:
            yield connection
    finally:
        await database.close()
