"""Restores a backup into an empty database, in one transaction: all of it, or nothing.

The database gets the schema of the backup, its rows, the migrations since, and the calls that the journal held. Then
every partition of Redis is in another epoch than any server knows, so whatever Redis has of accounts is loaded again
(docs/decisions/0028).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.backup.backup_file import JOURNAL, BackupDamaged, BackupReader, TableCopy
from gateway.backup.journal_copy import read_entries
from gateway.ledger.accounts import peppers
from gateway.ledger.audit import audit_log
from gateway.ledger.db import bulk_copy, month_partitions, schema
from gateway.ledger.db.bulk_copy import TableColumns
from gateway.ledger.db.session import Database, lift_timeouts
from gateway.ledger.usage import journal_offsets, meter_epochs, sink_hours
from gateway.workers.usage.entry_writing import Entries, PartitionEntry, Written, write_valid
from policies.usage.account_load import id_order
from policies.usage.epochs import next_number

BATCH_ENTRIES = 20_000

# Sessions of other roles show no name, and connections of an operator's own tools do not matter.
_GATEWAYS = text("""
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'gateway' AND pid <> pg_backend_pid()
""")


class RestoreRefused(Exception):  # noqa: N818 - named for the condition
    """The backup cannot or must not be restored here; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Restored:
    """How many rows were loaded, and how many calls of the journal became rows. `schema` is the revision now.

    `skipped` are tables of the backup that no migration makes, such as an operator's own.
    """

    rows: int
    journal_rows: int
    schema: str
    skipped: tuple[str, ...]


async def restore(
    database: Database,
    backup: BackupReader,
    *,
    replace: bool,
    partitions: int,
    keys: Mapping[int, bytes],
    actor: str,
) -> Restored:
    """`replace` drops what the database has. `partitions` is how many of Redis the gateway will use.

    Raises RestoreRefused; WrongPepper for others than those of the backup; BackupDamaged, DatabaseUnavailable.
    """
    revision = backup.manifest.schema
    if not schema.is_known(revision):
        raise RestoreRefused(
            f"the backup has schema {revision} of release {backup.manifest.release}, which this release does not know"
            f" (its newest is {schema.head()}): restore it with that release, or a newer one"
        )
    async with database.transaction() as connection:
        await lift_timeouts(connection)
        await _clear(connection, replace=replace)
        await schema.upgrade_within(connection, revision)
        rows, skipped = await _load(connection, backup)
        newest = await schema.upgrade_within(connection)
        await sink_hours.forget(connection)  # its files may be those of a later moment
        journal_rows = await _write_journal(connection, backup)
        await _begin_epochs(connection, partitions)
        await peppers.check(connection, keys)
        await _record(connection, backup, actor)
    return Restored(rows, journal_rows, newest, skipped)


async def _clear(connection: AsyncConnection, *, replace: bool) -> None:
    if sessions := (await connection.execute(_GATEWAYS)).scalar_one():
        raise RestoreRefused(f"{sessions} connections of gateways or commands use the database: stop them first")
    if await bulk_copy.is_empty(connection):
        return
    if not replace:
        raise RestoreRefused(
            "the database is not empty: restore into a new one, or have --replace drop all that this one has"
        )
    await bulk_copy.drop_everything(connection)


async def _load(connection: AsyncConnection, backup: BackupReader) -> tuple[int, tuple[str, ...]]:
    manifest = backup.manifest
    months = (month_partitions.parse(name) for name in manifest.months)
    await month_partitions.create(connection, [month for month in months if month is not None])
    made = {table.name for table in await bulk_copy.list_tables(connection)}
    present = [table for table in manifest.tables if table.name in made]
    rebuild = await bulk_copy.begin_load(connection, made)
    for table in present:
        await _load_table(connection, table, backup)
    await bulk_copy.end_load(connection, rebuild, sequences=manifest.sequences)
    skipped = tuple(table.name for table in manifest.tables if table.name not in made)
    return sum(table.rows for table in present), skipped


async def _load_table(connection: AsyncConnection, table: TableCopy, backup: BackupReader) -> None:
    with backup.member(table.member) as source:
        rows = await bulk_copy.copy_in(connection, TableColumns(table.name, table.columns), source)
    if rows != table.rows:
        raise BackupDamaged(f"{table.name} has {rows} rows, and the manifest says {table.rows}")


async def _write_journal(connection: AsyncConnection, backup: BackupReader) -> int:
    if not backup.manifest.journal_entries:
        return 0
    written = Written()
    with backup.member(JOURNAL) as source:
        for batch in read_entries(source, BATCH_ENTRIES):
            written += await write_valid(connection, _by_partition(batch))
            await _advance_offsets(connection, {partition: entry.id for partition, entry in batch})
    return written.rows


async def _advance_offsets(connection: AsyncConnection, last_ids: Mapping[int, str]) -> None:
    """The database may be further than the journal was when it was read."""
    stored = await journal_offsets.claim(connection, last_ids)
    ahead = {each: last for each, last in last_ids.items() if id_order(last) > id_order(stored[each])}
    await journal_offsets.advance(connection, ahead)


def _by_partition(batch: list[PartitionEntry]) -> Entries:
    entries: Entries = defaultdict(list)
    for partition, entry in batch:
        if entry.is_of_newer_release:
            raise RestoreRefused("the backup has calls recorded by a newer release: restore it with that release")
        entries[partition].append(entry)
    return entries


async def _begin_epochs(connection: AsyncConnection, partitions: int) -> None:
    """Names that no server of Redis has."""
    everywhere = range(partitions)
    await meter_epochs.lock(connection, everywhere)
    known = await meter_epochs.read(connection, everywhere)
    names = {partition: f"{next_number(None, marks)}-{token_hex(8)}" for partition, marks in known.items()}
    await meter_epochs.begin(connection, names)


async def _record(connection: AsyncConnection, backup: BackupReader, actor: str) -> None:
    manifest = backup.manifest
    after = {"created_at": manifest.created_at, "release": manifest.release, "schema": manifest.schema}
    await audit_log.append(
        connection, actor=actor, action="database.restore", entity="database", entity_id="postgresql", after=after
    )
