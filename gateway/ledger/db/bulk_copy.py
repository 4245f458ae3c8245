"""Copies whole tables out of a database and into one, in the text format of COPY, which every PostgreSQL reads.

The reader sees one moment. The writer loads into the tables of a schema revision that migrations have just created,
without indexes and foreign keys, which are built afterwards: that costs less than keeping them row by row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import outages_typed

# For the indexes: PostgreSQL's default of 64 MB sorts millions of rows on disk.
_BUILD_MEMORY = "256MB"

_NOT_OF_EXTENSION = "NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = {}.oid AND d.deptype = 'e')"

# Partitions go with their table, and Alembic writes its own.
_TABLES = text(f"""
    SELECT c.relname AS name,
           (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns
      FROM pg_class c
     WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND c.relname <> 'alembic_version' AND {_NOT_OF_EXTENSION.format("c")}
     ORDER BY c.relname
""")  # noqa: S608 - made of constants

_SEQUENCES = text("""
    SELECT sequencename AS name, last_value FROM pg_sequences
     WHERE schemaname = current_schema() AND last_value IS NOT NULL
""")

_RELATIONS = text(f"""
    SELECT count(*) FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
       AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND {_NOT_OF_EXTENSION.format("c")}
""")  # noqa: S608 - made of constants

_DROPS = text(f"""
    SELECT format('DROP %s IF EXISTS %I CASCADE',
                  CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                                 ELSE 'TABLE' END, c.relname)
      FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
       AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND NOT c.relispartition AND {_NOT_OF_EXTENSION.format("c")}
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
    UNION ALL
    SELECT format('DROP ROUTINE IF EXISTS %I(%s) CASCADE', p.proname, pg_get_function_identity_arguments(p.oid))
      FROM pg_proc p
     WHERE p.pronamespace = current_schema()::regnamespace AND {_NOT_OF_EXTENSION.format("p")}
""")  # noqa: S608 - made of constants

_FOREIGN_KEYS = text("""
    SELECT conrelid::regclass::text AS of, quote_ident(conname) AS name, pg_get_constraintdef(oid) AS definition
      FROM pg_constraint
     WHERE contype = 'f' AND conparentid = 0 AND connamespace = current_schema()::regnamespace
""")

# An index of a partitioned table is defined ON ONLY it, and made for its partitions as well without that word.
_INDEXES = text("""
    SELECT i.indexrelid::regclass::text AS name, replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') AS definition
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     WHERE c.relnamespace = current_schema()::regnamespace AND NOT c.relispartition
       AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
       AND (SELECT t.relname FROM pg_class t WHERE t.oid = i.indrelid) <> 'alembic_version'
""")  # noqa: E501 - a line of SQL


Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TableColumns:
    """A table and the columns that are copied of it."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The statements that give a loaded database its indexes and foreign keys back."""

    statements: tuple[str, ...]
    tables: tuple[str, ...]


async def list_tables(connection: AsyncConnection) -> tuple[TableColumns, ...]:
    """All tables of the gateway's schema with their columns, without generated ones."""
    rows = await connection.execute(_TABLES)
    return tuple(TableColumns(row.name, tuple(row.columns)) for row in rows)


async def lock_tables(connection: AsyncConnection, tables: Sequence[TableColumns]) -> None:
    """Keeps these tables as they are until the end of the transaction, for which it must be the first statement.

    Nobody waits for this lock but changes of the schema, such as the end of a month's retention.
    """
    if tables:
        names = ", ".join(_quoted(table.name) for table in tables)
        await connection.execute(text(f"LOCK TABLE {names} IN ACCESS SHARE MODE"))


async def read_sequences(connection: AsyncConnection) -> dict[str, int]:
    """The last value of each sequence that has given one."""
    return {row.name: row.last_value for row in await connection.execute(_SEQUENCES)}


async def copy_out(connection: AsyncConnection, table: TableColumns, write: Write) -> int:
    """Writes all rows of the table; gives how many. Raises the OSError that `write` raises."""
    return await copy_query(connection, f"SELECT {_list(table.columns)} FROM {_quoted(table.name)}", write)  # noqa: S608 - names from the catalogue


async def copy_query(connection: AsyncConnection, query: str, write: Write, **options: Any) -> int:
    """Writes the rows of a query; gives how many. `options` are those of asyncpg's `copy_from_query`.

    Raises the OSError that `write` raises.
    """

    failures: list[OSError] = []

    async def take(data: bytes) -> None:
        # The rest is read and dropped: asyncpg waits in vain for the end of a COPY whose reader has failed.
        if not failures:
            try:
                await write(data)
            except OSError as error:  # no outage of the database
                failures.append(error)

    with outages_typed():
        count = _count(await (await _driver(connection)).copy_from_query(query, output=take, **options))
    if failures:
        raise failures[0]
    return count


async def is_empty(connection: AsyncConnection) -> bool:
    """Whether the gateway's schema has neither tables nor views nor sequences."""
    relations: int = (await connection.execute(_RELATIONS)).scalar_one()
    return relations == 0


async def drop_everything(connection: AsyncConnection) -> None:
    """Drops the relations and routines of the gateway's schema, but none of an extension."""
    for statement in (await connection.scalars(_DROPS)).all():
        await connection.exec_driver_sql(statement)


async def begin_load(connection: AsyncConnection, tables: Iterable[str]) -> Rebuild:
    """Empties these tables, and takes triggers, foreign keys and indexes from the whole schema."""
    names = tuple(tables)
    await connection.exec_driver_sql(f"SET LOCAL maintenance_work_mem = '{_BUILD_MEMORY}'")
    keys = (await connection.execute(_FOREIGN_KEYS)).all()
    indexes = (await connection.execute(_INDEXES)).all()
    for name in names:
        await connection.exec_driver_sql(f"ALTER TABLE {_quoted(name)} DISABLE TRIGGER USER")
    for key in keys:
        await connection.exec_driver_sql(f"ALTER TABLE {key.of} DROP CONSTRAINT {key.name}")
    for index in indexes:
        await connection.exec_driver_sql(f"DROP INDEX {index.name}")
    await connection.exec_driver_sql(f"TRUNCATE {_list(names)}")
    added = (f"ALTER TABLE {key.of} ADD CONSTRAINT {key.name} {key.definition}" for key in keys)
    return Rebuild((*(index.definition for index in indexes), *added), names)


async def copy_in(connection: AsyncConnection, table: TableColumns, source: IO[bytes]) -> int:
    """Appends the rows that `source` has of the table; gives how many."""
    with outages_typed():
        driver = await _driver(connection)
        return _count(await driver.copy_to_table(table.name, source=source, columns=list(table.columns)))


async def end_load(connection: AsyncConnection, rebuild: Rebuild, *, sequences: Mapping[str, int]) -> None:
    """Builds what `begin_load` took, sets the sequences, and counts what the planner has to know."""
    for statement in rebuild.statements:
        await connection.exec_driver_sql(statement)
    for name in rebuild.tables:
        await connection.exec_driver_sql(f"ALTER TABLE {_quoted(name)} ENABLE TRIGGER USER")
    setting = text("SELECT setval(CAST(quote_ident(:name) AS regclass), :value)")
    for name, last in sequences.items():
        await connection.execute(setting, {"name": name, "value": last})
    await connection.exec_driver_sql(f"ANALYZE {_list(rebuild.tables)}")


async def _driver(connection: AsyncConnection) -> Any:
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        raise asyncpg.InterfaceError("the connection is closed")
    return driver


def _count(status: str) -> int:
    """PostgreSQL ends a COPY with `COPY 42`."""
    return int(status.rpartition(" ")[2])


def _list(names: Iterable[str]) -> str:
    return ", ".join(_quoted(name) for name in names)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
