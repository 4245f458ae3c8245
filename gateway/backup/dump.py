"""Makes a backup, beside gateways that serve.

The journal is read before PostgreSQL. Whatever leaves the journal in between has been committed by then, and so is in
the snapshot; what is in both is written once, by its request id. So the backup has every call that was settled when it
began.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import IO

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.backup import backup_file
from gateway.backup.backup_file import FORMAT, JOURNAL, BackupWriter, Manifest, TableCopy
from gateway.backup.journal_copy import copy_journal
from gateway.ledger.db import bulk_copy, month_partitions, schema
from gateway.ledger.db.bulk_copy import TableColumns
from gateway.ledger.db.session import Database, lift_timeouts
from gateway.meter.journal import Journal

_SERVER = text("SELECT current_setting('server_version') AS version, now() AS moment")


class NothingToBackUp(Exception):  # noqa: N818 - named for the condition
    """The database is empty."""


async def back_up(database: Database, journal: Journal | None, path: Path) -> Manifest:
    """Writes the backup to `path`. Without a journal it lacks the calls that PostgreSQL has not stored yet.

    Raises NothingToBackUp, DatabaseUnavailable, MeterUnavailable, OSError; then there is no file.
    """
    with backup_file.create(path) as writer:
        entries = None
        if journal is not None:
            with writer.member(JOURNAL) as stream:
                entries = await copy_journal(journal, stream)
        async with database.read() as connection:
            tables = await bulk_copy.list_tables(connection)
        async with database.snapshot() as connection:
            await bulk_copy.lock_tables(connection, tables)
            await lift_timeouts(connection)
            manifest = await _copy_database(connection, tables, writer, journal_entries=entries)
        writer.add_manifest(manifest)
    return manifest


async def _copy_database(
    connection: AsyncConnection, tables: tuple[TableColumns, ...], writer: BackupWriter, *, journal_entries: int | None
) -> Manifest:
    revision = await schema.current_within(connection)
    if revision is None:
        raise NothingToBackUp("the database is empty")
    server = (await connection.execute(_SERVER)).one()
    return Manifest(
        format=FORMAT,
        release=version("metering-gateway"),
        schema=revision,
        created_at=server.moment.isoformat(),
        postgresql=server.version,
        tables=tuple([await _copy_table(connection, table, writer) for table in tables]),
        months=tuple(partition.name for partition in await month_partitions.list_partitions(connection)),
        sequences=await bulk_copy.read_sequences(connection),
        journal_entries=journal_entries,
    )


async def _copy_table(connection: AsyncConnection, table: TableColumns, writer: BackupWriter) -> TableCopy:
    with writer.member(TableCopy(table.name, table.columns, 0).member) as stream:
        rows = await bulk_copy.copy_out(connection, table, _writing(stream))
    return TableCopy(table.name, table.columns, rows)


def _writing(stream: IO[bytes]) -> Callable[[bytes], Awaitable[None]]:
    async def write(data: bytes) -> None:
        stream.write(data)

    return write
