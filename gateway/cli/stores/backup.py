"""`gateway backup` and `gateway restore`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from gateway import logs
from gateway.backup import backup_file
from gateway.backup.backup_file import BackupReader, Manifest
from gateway.backup.dump import back_up
from gateway.backup.restore import Restored
from gateway.backup.restore import restore as restore_backup
from gateway.cli.arguments import replaceable_file
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_object
from gateway.cli.installation import connect, open_redis
from gateway.cli.transactions import ACTOR
from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.runtime.stores import open_store_servers
from gateway.workers.usage.store_watch import PostgresEpochRegister

app = typer.Typer()
_log = structlog.get_logger()

_ABOUT_FILE = "The file of the backup."
BackupFile = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help=_ABOUT_FILE)]
NewBackupFile = Annotated[
    Path, typer.Argument(metavar="FILE", dir_okay=False, callback=replaceable_file, help=_ABOUT_FILE)
]


@app.command()
def backup(
    file: NewBackupFile,
    without_journal: Annotated[
        bool,
        typer.Option("--without-journal", help="Do not read Redis: calls that PostgreSQL has not stored are left out."),
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write one file with what PostgreSQL and the journal in Redis have, while gateways serve.

    The file has no secrets: keep the pepper (GATEWAY_KEY_PEPPER, or data_dir/secrets.json) elsewhere.
    """
    logs.configure(role="backup", level=logging.WARNING)
    settings = load_config(config, data_dir)
    try:
        manifest = asyncio.run(_back_up(settings, file, with_journal=not without_journal))
        size = file.stat().st_size
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="FILE") from error
    print_object({"file": str(file), "bytes": size, **_described(manifest)}, as_json=as_json)


@app.command()
def restore(
    file: BackupFile,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what the database has. Without it, only an empty one is taken.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Verify the file, and restore nothing.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into the configured database: all of it, or nothing. Stop the gateways before.

    What Redis has of accounts is loaded again from the database afterwards.
    """
    logs.configure(role="restore", level=logging.ERROR)  # that epochs begin is what is asked for
    try:
        with backup_file.open_verified(file) as reader:
            fields = {"file": str(file), **_described(reader.manifest)}
            if not check:
                fields |= asyncio.run(_restore(load_config(config, data_dir), reader, replace=replace))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from error
    print_object(fields, as_json=as_json)


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "created_at": manifest.created_at,
        "release": manifest.release,
        "schema": manifest.schema,
        "tables": len(manifest.tables),
        "rows": sum(table.rows for table in manifest.tables),
        "journal_entries": manifest.journal_entries,
    }


async def _back_up(config: Config, file: Path, *, with_journal: bool) -> Manifest:
    async with open_store_servers(config) as stores, connect(config, stores, statement_timeout_seconds=0) as database:
        if not with_journal:
            return await back_up(database, None, file)
        async with open_redis(stores.redis_url) as redis_client:
            return await back_up(database, Journal(redis_client, config.redis.partitions), file)


async def _restore(config: Config, reader: BackupReader, *, replace: bool) -> dict[str, Any]:
    async with open_store_servers(config) as stores, connect(config, stores, statement_timeout_seconds=0) as database:
        await database.check_writable()
        restored = await restore_backup(
            database,
            reader,
            replace=replace,
            partitions=config.redis.partitions,
            keys=config.secrets.peppers,
            actor=ACTOR,
        )
        return _outcome(restored) | {"redis": await _rebuild_redis(config, stores.redis_url, database)}


def _outcome(restored: Restored) -> dict[str, Any]:
    return {
        "restored_rows": restored.rows,
        "journal_rows": restored.journal_rows,
        "skipped_tables": list(restored.skipped),
        "schema_now": restored.schema,
    }


async def _rebuild_redis(config: Config, url: str, database: Database) -> str:
    """Begins the epochs now; without Redis, the first gateway begins them."""
    try:
        async with open_redis(url) as redis_client:
            register = PostgresEpochRegister(database)
            meter = Meter(redis_client, partitions=config.redis.partitions, owner=ACTOR, register=register)
            begun = await meter.rebuild()
    except MeterUnavailable as error:
        _log.warning("redis_out_of_reach", reason=str(error))
        return "out of reach"
    return "rebuilt" if len(begun) == config.redis.partitions else "rebuilt in part"
