"""Reads and migrates the schema revision with Alembic."""

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

# A fixed number, "schema" in ASCII. Held during a migration, so that nodes that start together wait for each other.
ADVISORY_LOCK = int.from_bytes(b"schema", "big")

# Longer than short transactions take, short enough not to stall traffic behind a DDL lock.
DDL_LOCK_TIMEOUT = "5s"


class UnknownRevision(Exception):  # noqa: N818 - named for the condition
    """The database or the caller names a revision that this version does not have."""


def _is_compared(_item: object, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
    return not (kind == "table" and name is not None and is_partition(name))


# Alembic compares all tables except month partitions, which the workers manage.
COMPARISON: dict[str, Any] = {
    "target_metadata": metadata,
    "include_object": _is_compared,
    "compare_type": True,
    "compare_server_default": True,
}


def head() -> str:
    """The revision that this version works with."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise UnknownRevision("this installation has no migrations")
    return revision


async def current(url: str) -> str | None:
    """The database's revision; None for an empty database."""
    async with _connection(url) as connection:
        return await connection.run_sync(_revision_of)


async def upgrade(url: str, revision: str = "head") -> str:
    """Upgrades the database to `revision`; gives the new revision. Raises UnknownRevision."""
    return await _migrate(url, lambda config: command.upgrade(config, revision))


async def upgrade_within(connection: AsyncConnection, revision: str = "head") -> str:
    """The same in the transaction of `connection`, where nobody else migrates."""
    return await connection.run_sync(_step_known, lambda config: command.upgrade(config, revision))


async def current_within(connection: AsyncConnection) -> str | None:
    """The revision as the transaction of `connection` sees it; None for an empty database."""
    return await connection.run_sync(_revision_of)


def is_known(revision: str) -> bool:
    return revision in _known_revisions()


async def downgrade(url: str, revision: str) -> str:
    """Downgrades the database to `revision`, "base" or "-1". Data of later revisions is lost."""
    return await _migrate(url, lambda config: command.downgrade(config, revision))


def new(name: str) -> Path:
    """Creates the next, empty migration; gives its path."""
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


def _known_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in _scripts().walk_revisions())


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
    if before is not None and before not in _known_revisions():
        raise UnknownRevision(
            f"the database is at schema revision {before}, which this version of the gateway does not know"
            f" (its newest is {head()}): run the version that migrated it, or a newer one"
        )
    step(config)
    return _revision_of(connection) or BASE


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection without timeouts, for migrations."""
    database = Database(url, pool_size=1, statement_timeout_seconds=0, lock_timeout_seconds=0)
    try:
        async with database.transaction() as connection:
            yield connection
    finally:
        await database.close()
