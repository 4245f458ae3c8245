"""A backup, restored under another name, has all that PostgreSQL and the journal had, and all books agree."""

from __future__ import annotations

import asyncio
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.backup import backup_file, dump
from gateway.backup.backup_file import BackupDamaged
from gateway.backup.dump import NothingToBackUp, back_up
from gateway.backup.journal_copy import copy_journal
from gateway.backup.restore import Restored, RestoreRefused, restore
from gateway.ledger.accounts import peppers
from gateway.ledger.accounts.peppers import WrongPepper
from gateway.ledger.audit import audit_chain, audit_log
from gateway.ledger.db import bulk_copy, month_partitions, schema
from gateway.ledger.db.month_partitions import MonthPartition
from gateway.ledger.db.session import Database
from gateway.ledger.usage import sink_hours
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.workers.usage import usage_writer
from gateway.workers.usage.reconciliation import Reconciler
from gateway.workers.usage.store_watch import PostgresEpochRegister
from gateway.workers.usage.usage_writer import UsageWriter
from policies.usage.epochs import Agreement
from tests.backup.conftest import PEPPERS, NewDatabase
from tests.support import databases
from tests.workers.conftest import PARTITIONS, Backend

# What a restore itself writes.
CHANGED = {"audit_log", "audit_head", "audit_personal", "meter_epochs", "pepper_fingerprints"}


async def restored(path: Path, database: Database, *, replace: bool = False) -> Restored:
    with backup_file.open_verified(path) as reader:
        return await restore(database, reader, replace=replace, partitions=PARTITIONS, keys=PEPPERS, actor="test")


async def calls_of(database: Database) -> set[UUID]:
    async with database.read() as connection:
        found = (await connection.scalars(text("SELECT request_id FROM usage_tracking"))).all()
    assert len(found) == len(set(found))
    return set(found)


async def content(database: Database) -> dict[str, list[bytes]]:
    tables: dict[str, list[bytes]] = {}
    async with database.snapshot() as connection:
        for table in await bulk_copy.list_tables(connection):
            rows: list[bytes] = []

            async def write(data: bytes, rows: list[bytes] = rows) -> None:
                rows.append(data)

            await bulk_copy.copy_out(connection, table, write)
            tables[table.name] = sorted(b"".join(rows).splitlines())
    return tables


async def definitions(database: Database) -> set[str]:
    """Every index, constraint and trigger."""
    query = text("""
        SELECT pg_get_indexdef(indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) || ' ' || convalidated
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT pg_get_triggerdef(oid) || ' ' || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
    """)
    async with database.read() as connection:
        return set((await connection.scalars(query)).all())


async def some_calls(backend: Backend, count: int, users: int = 3) -> set[UUID]:
    accounts = [await backend.a_user() for _ in range(users)]
    for user_id in accounts:
        await backend.load(user_id)
    return {UUID(await backend.call(accounts[number % users])) for number in range(count)}


async def sealed_entry(url: str) -> None:
    database = Database(url, pool_size=1, audit_keys=audit_chain.keys_of(PEPPERS))
    async with database.transaction() as connection:
        await audit_log.append(connection, actor="a\tb\\N", action="user.create", entity="user", entity_id="é\n")
    await database.close()


def a_meter(backend: Backend, database: Database) -> Meter:
    return Meter(backend.redis_client, partitions=PARTITIONS, owner="x", register=PostgresEpochRegister(database))


async def assert_books_agree(database: Database, backend: Backend) -> None:
    meter = a_meter(backend, database)
    assert len(await meter.rebuild()) == PARTITIONS
    reconciler = Reconciler(database, AccountSnapshotReader(backend.redis_client, meter))
    assert [each async for page in reconciler.pages() for each in page.findings] == []


async def test_restored_database_is_the_same_row_by_row(
    backend: Backend, empty_database: NewDatabase, tmp_path: Path
) -> None:
    old = MonthPartition("usage_tracking", datetime(2020, 2, 1, tzinfo=UTC))
    async with backend.database.transaction() as connection:
        await month_partitions.create(connection, [old])
    await sealed_entry(backend.database.url)
    calls = await some_calls(backend, 20)
    await a_meter(backend, backend.database).compare_stores()
    while await UsageWriter(backend.database, backend.journal).run_once():
        pass
    await back_up(backend.database, backend.journal, tmp_path / "backup")
    database = await empty_database()
    done = await restored(tmp_path / "backup", database)
    before, after = await content(backend.database), await content(database)
    assert {name for name in before if before[name] != after[name]} <= CHANGED
    assert (done.journal_rows, done.skipped, done.schema) == (0, (), schema.head())
    assert done.rows == sum(map(len, before.values()))
    assert await calls_of(database) == calls
    assert await definitions(database) == await definitions(backend.database)
    async with database.transaction() as connection:
        assert old in await month_partitions.list_partitions(connection)
        await audit_log.append(connection, actor="test", action="x", entity="y", entity_id="z")  # ids go on
    async with database.read() as connection:
        found = await audit_chain.verify(connection, audit_chain.keys_of(PEPPERS))
    assert getattr(found, "rows", 0) >= 3, found
    # Nothing was lost, so nothing but the name of the epochs shows that PostgreSQL is another one.
    assert set((await a_meter(backend, database).rebuild([])).values()) == {str(Agreement.REDIS_BEHIND)}
    await assert_books_agree(database, backend)


async def test_backup_has_the_same_moments_whatever_style_the_database_writes_dates_in(
    backend: Backend, empty_database: NewDatabase, tmp_path: Path
) -> None:
    await some_calls(backend, 1)
    before = await content(backend.database)
    async with backend.database.transaction() as connection:
        name = await connection.scalar(text("SELECT current_database()"))
        await connection.execute(text(f"ALTER DATABASE \"{name}\" SET datestyle = 'SQL, DMY'"))
    reopened = Database(backend.database.url, pool_size=1)
    await back_up(reopened, None, tmp_path / "backup")
    await reopened.close()
    database = await empty_database()
    await restored(tmp_path / "backup", database)
    after = await content(database)
    assert {name for name in before if before[name] != after[name]} <= CHANGED


async def test_backup_and_restore_take_as_long_as_they_take_where_transactions_are_bounded(
    backend: Backend, empty_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, forget = bulk_copy.read_sequences, sink_hours.forget

    async def read_slowly(connection: AsyncConnection) -> dict[str, int]:
        await asyncio.sleep(1.2)
        return await read(connection)

    async def forget_slowly(connection: AsyncConnection) -> None:
        await asyncio.sleep(1.2)
        await forget(connection)

    monkeypatch.setattr(bulk_copy, "read_sequences", read_slowly)
    monkeypatch.setattr(sink_hours, "forget", forget_slowly)
    calls, database = await some_calls(backend, 1), await empty_database()
    for each in (backend.database, database):
        await databases.bound_transactions(each.url)
    reopened = Database(backend.database.url, pool_size=1)
    await back_up(reopened, backend.journal, tmp_path / "backup")
    await reopened.close()
    await restored(tmp_path / "backup", database)
    assert await calls_of(database) == calls


async def test_restored_database_is_copied_to_its_sink_once_more(
    backend: Backend, empty_database: NewDatabase, tmp_path: Path
) -> None:
    async with backend.database.transaction() as connection:
        assert await sink_hours.renew(connection)
    await back_up(backend.database, backend.journal, tmp_path / "backup")
    database = await empty_database()
    await restored(tmp_path / "backup", database)
    async with database.transaction() as connection:
        assert await sink_hours.renew(connection)


async def test_restored_database_has_each_call_of_the_journal_once(
    backend: Backend, empty_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the usage writer stores and trims some of them between the two readings."""
    calls = await some_calls(backend, 120)
    await backend.spoil(backend.users[0], b"n\xffnsense")
    await backend.redis.xadd(backend.meter.keys(backend.users[0]).journal, {b"odd": b"\xff"})
    monkeypatch.setattr(usage_writer, "BATCH_ENTRIES", 1)  # the journal gives its least: 20 of a partition

    async def copy_and_write(journal: Journal, stream: IO[bytes]) -> int:
        copied = await copy_journal(journal, stream)
        await UsageWriter(backend.database, backend.journal).run_once()
        return copied

    monkeypatch.setattr(dump, "copy_journal", copy_and_write)
    assert (await back_up(backend.database, backend.journal, tmp_path / "backup")).journal_entries == 122
    database = await empty_database()
    stored = len(await calls_of(backend.database))
    assert 0 < stored < 120
    assert (await restored(tmp_path / "backup", database)).journal_rows == 120 - stored
    assert await calls_of(database) == calls
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM journal_poison"))).scalar_one() == 2
        charged = (await connection.execute(text("SELECT sum(total_credits_used) FROM user_credits"))).scalar_one()
    assert charged == 120
    while await UsageWriter(database, backend.journal).run_once():  # Redis has some still: they are not charged again
        pass
    assert await calls_of(database) == calls
    await assert_books_agree(database, backend)


async def test_backup_waits_for_nobody_who_writes(backend: Backend, tmp_path: Path) -> None:
    async with backend.database.transaction() as connection:
        await connection.execute(text("UPDATE catalogue SET version = version + 1"))
        async with asyncio.timeout(10):
            manifest = await back_up(backend.database, None, tmp_path / "backup")
    assert "catalogue" in {table.name for table in manifest.tables}


async def test_backup_on_a_full_disk_says_so(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, data: bytes) -> int:
        raise OSError(28, f"No space left on device for {len(data)} bytes")

    monkeypatch.setattr(backup_file._HashedStream, "write", full)
    with pytest.raises(OSError, match="No space left"):
        await back_up(backend.database, None, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_backup_of_an_empty_database_is_none(empty_database: NewDatabase, tmp_path: Path) -> None:
    with pytest.raises(NothingToBackUp):
        await back_up(await empty_database(), None, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_restore_refuses_a_database_with_content_and_changes_nothing(backend: Backend, tmp_path: Path) -> None:
    await some_calls(backend, 3)
    await back_up(backend.database, backend.journal, tmp_path / "backup")
    before = await content(backend.database)
    other = Database(f"{backend.database.url}?application_name=restore", pool_size=1)
    await backend.database.close()  # its sessions are those of a gateway
    with pytest.raises(RestoreRefused, match="not empty"):
        await restored(tmp_path / "backup", other)
    assert await content(other) == before
    async with backend.database.read():
        with pytest.raises(RestoreRefused, match="connections of gateways"):
            await restored(tmp_path / "backup", other, replace=True)
    await backend.database.close()
    await other.close()


async def test_restore_that_fails_at_its_end_changes_nothing(backend: Backend, tmp_path: Path) -> None:
    await some_calls(backend, 3)
    async with backend.database.transaction() as connection:
        await peppers.check(connection, {1: b"q" * 32})
    await back_up(backend.database, backend.journal, tmp_path / "backup")
    before = await content(backend.database)
    await backend.database.close()  # its sessions are those of a gateway
    with pytest.raises(WrongPepper):
        await restored(tmp_path / "backup", backend.database, replace=True)
    assert await content(backend.database) == before


async def test_backup_of_an_older_schema_is_migrated_and_replaces_what_there_is(
    empty_database: NewDatabase, tmp_path: Path
) -> None:
    older, database = await empty_database(), await empty_database()
    await schema.upgrade(older.url, "0018")
    async with older.transaction() as connection:
        await connection.execute(text("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com')"))
        await connection.execute(text("CREATE TABLE of_an_operator (id int)"))
    manifest = await back_up(older, None, tmp_path / "backup")
    assert (manifest.schema, manifest.journal_entries) == ("0018", None)
    async with database.transaction() as connection:
        for statement in (
            "CREATE TABLE users (id int)",
            "CREATE TABLE other (id serial)",
            "CREATE VIEW v AS TABLE other",
        ):
            await connection.execute(text(statement))
    done = await restored(tmp_path / "backup", database, replace=True)
    assert (done.schema, done.skipped) == (schema.head(), ("of_an_operator",))
    async with database.read() as connection:
        assert (await connection.scalars(text("SELECT email FROM users"))).all() == ["ada@example.com"]
        assert "other" not in {table.name for table in await bulk_copy.list_tables(connection)}


async def test_restore_refuses_a_newer_schema_and_wrong_counts(
    backend: Backend, empty_database: NewDatabase, tmp_path: Path
) -> None:
    manifest = await back_up(backend.database, None, tmp_path / "backup")
    database = await empty_database()
    newer = rewritten(tmp_path / "backup", schema="9999")
    with pytest.raises(RestoreRefused, match="schema 9999"):
        await restored(newer, database)
    tables = [replace(table, rows=table.rows + 1) for table in manifest.tables]
    counts = rewritten(
        tmp_path / "backup", tables=[{"name": each.name, "columns": each.columns, "rows": each.rows} for each in tables]
    )
    with pytest.raises(BackupDamaged, match="the manifest says"):
        await restored(counts, database)
    async with database.read() as connection:
        assert await bulk_copy.is_empty(connection)


def rewritten(path: Path, **fields: object) -> Path:
    """The same backup with another manifest, and the checksum that goes with it."""
    changed = path.with_name("rewritten")
    with zipfile.ZipFile(path) as archive, backup_file.create(changed) as writer:
        for name in archive.namelist():
            with writer.member(name) as stream:
                found = archive.read(name)
                stream.write(json.dumps(json.loads(found) | fields).encode() if name == "manifest.json" else found)
    return changed
