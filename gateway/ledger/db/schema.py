"""Reads and migrates the schema revision with Alembic.

Versions of the gateway serve side by side while one replaces the other, so a schema fits more than one. Each migration
says which: `serves_from` is the oldest version, by its newest migration, that works with the schema, and `is_needed`
whether the version that brings the migration works without it. A migration tells the database the first, for versions
that do not know it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from gateway.ledger.db.session import Database, lift_timeouts
from gateway.ledger.db.tables import metadata

BASE = "base"

# A fixed number, "schema" in ASCII. Held during a migration, so that nodes that start together wait for each other.
ADVISORY_LOCK = int.from_bytes(b"schema", "big")

# Longer than short transactions take, short enough not to stall traffic behind a DDL lock.
DDL_LOCK_TIMEOUT = "5s"


_SERVES_FROM = "Serves versions of the gateway from revision "
_READ_SERVES_FROM = text("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")


class SchemaUnfit(Exception):  # noqa: N818 - named for the condition
    """This version does not work with the schema of the database; the message says what does."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A schema that this version works with: the revision that the database is `at`, and the newest that it knows."""

    at: str
    newest: str
    is_newer: bool = False


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


async def check(url: str) -> Fit:
    """How the schema of the database fits this version. Raises SchemaUnfit."""
    async with _connection(url) as connection:
        at = await connection.run_sync(_revision_of)
        comment = await connection.scalar(_READ_SERVES_FROM)
    return fit(at, serves_from=(comment or "").removeprefix(_SERVES_FROM), known=_revisions())


def fit(at: str | None, *, serves_from: str, known: Mapping[str, bool]) -> Fit:
    """How a schema fits a version that knows these revisions, oldest first, each with whether it is needed.

    Raises SchemaUnfit.
    """
    revisions = list(known)
    newest = revisions[-1]
    if at is None or at in known:
        missing = [each for each in revisions[revisions.index(at) + 1 if at else 0 :] if known[each]]
        if at is not None and not missing:
            return Fit(at, newest)
        where = f"at revision {at}" if at else "empty"
        raise SchemaUnfit(f"the database is {where}, this version needs {missing[-1]}: run `gateway migrate up`")
    if serves_from in known:
        return Fit(at, newest, is_newer=True)
    serves = f"serves versions from revision {serves_from} on" if serves_from else "is newer"
    raise SchemaUnfit(
        f"the database is at revision {at}, which {serves}, and this version knows {newest} at most:"
        " run the version that migrated the database, or a newer one"
    )


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
    return revision in _revisions()


async def downgrade(url: str, revision: str) -> str:
    """Downgrades the database to `revision`, "base" or "-1". Data of later revisions is lost."""
    return await _migrate(url, lambda config: command.downgrade(config, revision))


def new(name: str) -> Path:
    """Creates the next, empty migration; gives its path. Raises UnknownRevision outside a clone of the sources."""
    folder = Path(migrations.__file__).parent
    if not (folder.parent / "pyproject.toml").is_file():
        raise UnknownRevision(f"a migration is written in a clone of the sources, and {folder} is an installation")
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


def _revisions() -> dict[str, bool]:
    """The revisions that this version knows, oldest first, each with whether this version needs it."""
    scripts = reversed(list(_scripts().walk_revisions()))
    return {script.revision: getattr(script.module, "is_needed", True) for script in scripts}


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
    if before is not None and before not in _revisions():
        raise UnknownRevision(
            f"the database is at schema revision {before}, which this version of the gateway does not know"
            f" (its newest is {head()}): run the version that migrated it, or a newer one"
        )
    step(config)
    after = _revision_of(connection)
    if after is not None:
        serves_from = getattr(_scripts().get_revision(after).module, "serves_from", after)
        connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{_SERVES_FROM}{serves_from}'"))
    return after or BASE


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection without timeouts, for migrations."""
    database = Database(url, pool_size=1, statement_timeout_seconds=0, lock_timeout_seconds=0)
    try:
        async with database.transaction() as connection:
            await lift_timeouts(connection)
            yield connection
    finally:
        await database.close()
