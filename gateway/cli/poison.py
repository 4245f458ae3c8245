"""usage poison."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import typer

from gateway.cli import options
from gateway.cli.installation import prepare
from gateway.cli.options import AsJson, ConfigFile, DataDir
from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.ledger.usage.poison import Poison, list_poison
from gateway.runtime.stores import opened_stores

PAGE = 500


def poison(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show the journal entries that PostgreSQL refused, newest first: calls that only Redis has charged."""
    asyncio.run(_show(options.read(config, data_dir), as_json=as_json))


async def _show(config: Config, *, as_json: bool) -> None:
    async with opened_stores(config) as reached:
        await prepare(config, reached)
        database = Database(reached.database_url, pool_size=1)
        try:
            cursor = None
            while True:
                async with database.read() as connection:
                    page = await list_poison(connection, cursor=cursor, limit=PAGE)
                for entry in page.data:
                    typer.echo(json.dumps(_plain(entry)) if as_json else _line(entry))
                cursor = page.next_cursor
                if cursor is None:
                    return
        finally:
            await database.close()


def _plain(entry: Poison) -> dict[str, Any]:
    """`line` is what was to be written, as it stood in the journal; what is no UTF-8 in it is escaped."""
    return {
        "id": entry.id,
        "created_at": entry.created_at.isoformat(),
        "partition": entry.partition,
        "entry_id": entry.entry_id,
        "reason": entry.reason,
        "line": entry.line.decode("utf-8", "backslashreplace").rstrip("\n"),
    }


def _line(entry: Poison) -> str:
    where = f"{entry.created_at.isoformat(timespec='seconds')}  p{entry.partition:02} {entry.entry_id}"
    return f"{where}  {' '.join(entry.reason.split())}"
