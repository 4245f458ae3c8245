"""The database to import from: PostgreSQL, MySQL, MariaDB or SQLite, opened so that it cannot be written.

Everything is read in one transaction, hence as of one moment where the database has such a thing, page by page in the
order of each table's key, so that memory is bounded however large a table is.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.ledger.db.session import lift_timeouts
from gateway.postgres_url import open_tls, parse_postgres_url

T = TypeVar("T")
Run = Callable[[Callable[[Connection], Any]], Awaitable[Any]]

_DRIVERS = {"postgresql": "asyncpg", "mysql": "pymysql", "mariadb": "pymysql", "sqlite": "pysqlite"}
_ALIASES = {"postgres": "postgresql"}
# What may end a connection that waits while batches are written, or a long statement. MySQL and MariaDB know others.
_MYSQL_BOUNDS = {
    "wait_timeout": 86_400,  # which takes no 0
    "idle_transaction_timeout": 0,
    "idle_readonly_transaction_timeout": 0,
    "max_statement_time": 0,
    "max_execution_time": 0,
}
_BOUNDS_KNOWN = f"SHOW VARIABLES WHERE Variable_name IN {tuple(_MYSQL_BOUNDS)}"
MOST_DUPLICATES = 10_000


class SourceUnusable(Exception):  # noqa: N818 - a state of the world
    """The source cannot be read; the message says why, without the password."""


class NoUsableKey(ValueError):  # noqa: N818 - named for the condition
    """The table has no column to read it by in pages; the message says why."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table of the source. `key_type` types the comparison with keys, where the database needs that."""

    name: str
    schema: str | None
    key: str
    columns: tuple[str, ...]
    where: str | None = None
    key_type: sa.types.TypeEngine[Any] | None = None

    def column(self, name: str) -> sa.ColumnElement[Any]:
        return sa.column(name, self.key_type) if name == self.key and self.key_type else sa.column(name)

    def select(self, *what: sa.ColumnElement[Any]) -> sa.Select[Any]:
        found = sa.select(*what).select_from(sa.table(self.name, schema=self.schema))
        if self.where is None:
            return found
        verbatim = self.where.replace(":", r"\:")  # else :true in '{"a":true}' is a parameter
        return found.where(sa.text(f"({verbatim})"))


class SourceDatabase:
    """One connection, in one transaction that reads. `run` calls a function with it, off the loop."""

    def __init__(self, run: Run, url: URL) -> None:
        self._run = run
        self.name = url.render_as_string(hide_password=True)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Raises SourceUnusable."""
        try:
            found: T = await self._run(work)
        except (SQLAlchemyError, OSError, UnicodeError) as error:  # the last: a key that is no text
            raise SourceUnusable(f"{self.name}: {_reason(error)}") from error
        return found

    async def table_names(self) -> tuple[str, ...]:
        def look(connection: Connection) -> tuple[str, ...]:
            inspector = sa.inspect(connection)
            return tuple(sorted((*inspector.get_table_names(), *inspector.get_view_names())))

        return await self.run(look)

    async def find_table(self, named: str, *, key: str | None, where: str | None) -> SourceTable | None:
        """None for an unknown table. Raises NoUsableKey."""
        schema, _, name = named.rpartition(".")

        def look(connection: Connection) -> tuple[list[Any], list[str]] | None:
            inspector = sa.inspect(connection)
            try:
                found = inspector.get_columns(name, schema=schema or None)
                primary = inspector.get_pk_constraint(name, schema=schema or None)["constrained_columns"]
            except NoSuchTableError:
                return None
            return found, primary

        described = await self.run(look)
        if described is None:
            return None
        types = {each["name"]: each["type"] for each in described[0]}
        chosen = key or (described[1][0] if len(described[1]) == 1 else None)
        if chosen is None:
            raise NoUsableKey(f"{named} has no primary key of one column; name a unique column")
        if chosen not in types:
            raise NoUsableKey(f"{named} has no column {chosen}; it has {', '.join(types)}")
        key_type = types[chosen] if self.name.startswith("postgresql") else None
        return SourceTable(name, schema or None, chosen, tuple(types), where, key_type)

    async def count(self, table: SourceTable) -> int:
        return await self.run(lambda connection: connection.execute(table.select(sa.func.count())).scalar_one())

    async def count_without_key(self, table: SourceTable) -> int:
        query = table.select(sa.func.count()).where(table.column(table.key).is_(None))
        return await self.run(lambda connection: connection.execute(query).scalar_one())

    async def list_duplicates(self, table: SourceTable, column: str) -> tuple[Any, ...]:
        """Values that several rows have in the column, as many as one would look at."""
        of = table.column(column)
        query = table.select(of).where(of.is_not(None)).group_by(of).having(sa.func.count() > 1).limit(MOST_DUPLICATES)
        return await self.run(lambda connection: tuple(connection.execute(query).scalars()))

    async def _fetch(self, query: sa.Select[Any]) -> Sequence[Any]:
        return await self.run(lambda connection: connection.execute(query).all())

    async def pages(
        self, table: SourceTable, columns: Sequence[str], *, size: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The rows in the order of the key; each has these columns and the key."""
        names = list(dict.fromkeys((table.key, *columns)))
        key, last = table.column(table.key), None
        while True:
            query = table.select(*map(table.column, names)).where(key.is_not(None)).order_by(key).limit(size)
            if last is not None:
                query = query.where(key > last)
            rows = [dict(zip(names, row, strict=True)) for row in await self._fetch(query)]
            if rows:
                yield rows
                last = rows[-1][table.key]
            if len(rows) < size:
                return


@asynccontextmanager
async def open_source(url: str) -> AsyncIterator[SourceDatabase]:
    """Raises SourceUnusable, also for a driver that is not installed, with what to install."""
    parsed = _parse(url)
    opened = _open_postgresql(parsed) if parsed.get_backend_name() == "postgresql" else _open_in_thread(parsed)
    async with opened as run:
        yield SourceDatabase(run, parsed)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        # What follows a mistake may be the password.
        raise SourceUnusable("the URL is none: expected postgresql://, mysql:// or sqlite:///FILE") from None
    backend, _, driver = parsed.drivername.partition("+")
    backend = _ALIASES.get(backend, backend)
    if backend not in _DRIVERS:
        raise SourceUnusable(f"{backend}: can be read from {', '.join(sorted(_DRIVERS))} only")
    driver = "asyncpg" if backend == "postgresql" else driver or _DRIVERS[backend]
    return parsed.set(drivername=f"{backend}+{driver}")


@contextmanager
def _failures_typed(url: URL) -> Iterator[None]:
    """Around the opening alone: what fails later is the fault of whoever uses the source."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SourceUnusable(f"{error}: MySQL and MariaDB need metering-gateway[mysql]") from error
    except (SQLAlchemyError, OSError, TypeError, ValueError) as error:  # the last two: parameters nobody knows
        raise SourceUnusable(f"{url.render_as_string()}: {_reason(error)}") from error


@asynccontextmanager
async def _open_postgresql(url: URL) -> AsyncIterator[Run]:
    with _failures_typed(url):
        wanted = parse_postgres_url(url.render_as_string(hide_password=False))
        arguments = {**open_tls(wanted.arguments), "server_settings": dict(wanted.server_settings)}
        engine = create_async_engine(wanted.url, pool_size=1, connect_args=arguments)
    try:
        with _failures_typed(url):
            connection = await engine.connect()
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        await connection.execution_options(**options)
        try:
            with _failures_typed(url):
                await lift_timeouts(connection)  # it waits while batches are written
            yield connection.run_sync
        finally:
            await connection.close()
    finally:
        await engine.dispose()


@asynccontextmanager
async def _open_in_thread(url: URL) -> AsyncIterator[Run]:
    with _failures_typed(url):
        engine = _sqlite_engine(url) if url.get_backend_name() == "sqlite" else sa.create_engine(url)
    try:
        with _failures_typed(url):
            connection = await asyncio.to_thread(_begin, engine)
        try:
            yield lambda work: asyncio.to_thread(work, connection)
        finally:
            await asyncio.to_thread(connection.close)
    finally:
        engine.dispose()


def _begin(engine: Engine) -> Connection:
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.exec_driver_sql("SET SESSION time_zone = '+00:00'")  # a TIMESTAMP is read by it
        for name in connection.exec_driver_sql(_BOUNDS_KNOWN).scalars().all():
            connection.exec_driver_sql(f"SET SESSION {name} = {_MYSQL_BOUNDS[name]}")
        connection.commit()
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    return connection


def _sqlite_engine(url: URL) -> Engine:
    """Without `mode=ro` SQLite would create a file that is not there, and could write."""
    if not url.database or not Path(url.database).is_file():
        raise SourceUnusable(f"{url.database or 'sqlite'}: there is no such file")
    file = quote(str(Path(url.database).absolute()))
    engine = sa.create_engine(
        f"sqlite+pysqlite:///file:{file}?mode=ro&uri=true", connect_args={"check_same_thread": False}
    )
    sa.event.listen(engine, "connect", _read_any_text)
    return engine


def _read_any_text(connection: sqlite3.Connection, _: object) -> None:
    """SQLite keeps any bytes as text. What is no UTF-8 has half characters, for which its row is refused."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())
