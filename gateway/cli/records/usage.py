"""`gateway usage export` and `poison`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.arguments import moment, replaceable_file
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config
from gateway.cli.installation import open_database
from gateway.cli.transactions import find_user
from gateway.config import Config
from gateway.csv_rows import CsvWriter
from gateway.ledger.db.session import lift_timeouts
from gateway.ledger.usage.history import UsageFilter, UsageRow, count_usage, stream_usage
from gateway.ledger.usage.poison import PoisonEntry, list_poison

app = typer.Typer(help="Usage.", no_args_is_help=True)

PAGE_SIZE = 500
COLUMNS = tuple(field.name for field in fields(UsageRow))

Write = Callable[[UsageRow], object]


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


@app.command()
def export(
    since: Annotated[
        datetime | None, typer.Option("--from", parser=moment, metavar="MOMENT", help="From this date or timestamp on.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", parser=moment, metavar="MOMENT", help="Before this date or timestamp.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="csv with a header, or one JSON object a line.")
    ] = Format.CSV,
    user: Annotated[str | None, typer.Option(help="Only this user's, by id or e-mail address.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, callback=replaceable_file, help="A file, which appears when it is complete; else stdout."
        ),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write the usage of a span of time, oldest first. Times without an offset are UTC."""
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter(f"--from {since.isoformat()} is not before --to {until.isoformat()}")
    settings = load_config(config, data_dir)
    # Not among rows that go to the same terminal.
    shows_progress = sys.stderr.isatty() and not (output is None and sys.stdout.isatty())
    with _destination(output) as stream:
        wanted = UsageFilter(since=since, until=until)
        asyncio.run(_export(settings, wanted, user, lambda: _writer(form, stream), shows_progress=shows_progress))


@app.command()
def poison(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show the journal entries that PostgreSQL refused, newest first: calls that only Redis has charged."""
    asyncio.run(_show_poison(load_config(config, data_dir), as_json=as_json))


async def _export(
    config: Config, wanted: UsageFilter, user: str | None, begin: Callable[[], Write], *, shows_progress: bool
) -> None:
    # Without a timeout: a reader of the output may be slow, and nobody else waits for these statements.
    async with open_database(config, statement_timeout_seconds=0) as (_, database), database.read() as connection:
        if user is not None:
            owner = await find_user(connection, user)
            wanted = UsageFilter(since=wanted.since, until=wanted.until, user_id=owner.id)
        await lift_timeouts(connection)
        await _copy(connection, wanted, begin(), shows_progress=shows_progress)


async def _copy(connection: AsyncConnection, wanted: UsageFilter, write: Write, *, shows_progress: bool) -> None:
    total = await count_usage(connection, wanted) if shows_progress else None
    with _progress(total) as bar:
        task = bar.add_task("usage", total=total)
        async for row in stream_usage(connection, wanted):
            write(row)
            bar.advance(task)


def _progress(total: int | None) -> Progress:
    """A bar on stderr; none where `total` is None."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=total is None, transient=True)


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name once it is complete."""
    if output is None:
        yield typer.get_text_stream("stdout", encoding="utf-8")
        return
    partial = output.with_name(f"{output.name}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(output)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {output}: {error.strerror}", param_hint="--output") from error
    finally:
        partial.unlink(missing_ok=True)


def _writer(form: Format, stream: TextIO) -> Write:
    if form is Format.JSONL:
        return lambda row: stream.write(f"{json.dumps(_fields(row), ensure_ascii=False, default=_json)}\n")
    writer = CsvWriter(stream, line_end="\n")
    writer.write(COLUMNS)
    return lambda row: writer.write(_fields(row).values())


def _fields(row: UsageRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in COLUMNS}


def _json(value: object) -> object:
    """Money stays exact: numeric(12, 6) has fewer digits than a float."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


async def _show_poison(config: Config, *, as_json: bool) -> None:
    async with open_database(config) as (_, database):
        cursor = None
        while True:
            async with database.read() as connection:
                page = await list_poison(connection, cursor=cursor, limit=PAGE_SIZE)
            for entry in page.data:
                typer.echo(json.dumps(_poison_fields(entry)) if as_json else _poison_line(entry))
            cursor = page.next_cursor
            if cursor is None:
                return


def _poison_fields(entry: PoisonEntry) -> dict[str, Any]:
    """`line` is the entry as the journal has it, with bytes that are not UTF-8 escaped."""
    return {
        "id": entry.id,
        "created_at": entry.created_at.isoformat(),
        "partition": entry.partition,
        "entry_id": entry.entry_id,
        "reason": entry.reason,
        "line": entry.line.decode("utf-8", "backslashreplace").rstrip("\n"),
    }


def _poison_line(entry: PoisonEntry) -> str:
    place = f"{entry.created_at.isoformat(timespec='seconds')}  p{entry.partition:02} {entry.entry_id}"
    return f"{place}  {' '.join(entry.reason.split())}"
