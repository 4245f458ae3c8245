"""usage export, and `poison` beside it."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli import options
from gateway.cli.installation import prepare
from gateway.cli.options import ConfigFile, DataDir
from gateway.cli.poison import poison
from gateway.cli.unit_of_work import find_user
from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.ledger.usage.history import UsageFilter, UsageRow, count_usage, stream_usage
from gateway.runtime.stores import opened_stores

app = typer.Typer(help="Usage.", no_args_is_help=True)

COLUMNS = tuple(field.name for field in fields(UsageRow))

Write = Callable[[UsageRow], object]


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


def moment(written: str) -> datetime:
    """A date or a timestamp (ISO 8601); in UTC unless it says otherwise."""
    try:
        parsed = datetime.fromisoformat(written.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{written!r} is neither a date such as 2026-01-31 nor a timestamp such as 2026-01-31T12:00:00Z"
        ) from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


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
        Path | None, typer.Option(dir_okay=False, help="A file, which appears when it is complete; else stdout.")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write the usage of a span of time, oldest first. Times without an offset are UTC."""
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter(f"--from {since.isoformat()} is not before --to {until.isoformat()}")
    settings = options.read(config, data_dir)
    # Not among rows that go to the same terminal.
    shows_progress = sys.stderr.isatty() and not (output is None and sys.stdout.isatty())
    with _destination(output) as stream:
        wanted, write = UsageFilter(since=since, until=until), _writer(form, stream)
        asyncio.run(_export(settings, wanted, user, write=write, shows_progress=shows_progress))


app.command()(poison)


async def _export(config: Config, wanted: UsageFilter, user: str | None, *, write: Write, shows_progress: bool) -> None:
    async with opened_stores(config) as reached:
        await prepare(config, reached)
        # Unbounded: a reader of the output may be slow, and nobody else waits for these statements.
        database = Database(reached.database_url, pool_size=1, statement_timeout_seconds=0)
        try:
            async with database.read() as connection:
                if user is not None:
                    owner = await find_user(connection, user)
                    wanted = UsageFilter(since=wanted.since, until=wanted.until, user_id=owner.id)
                await _copy(connection, wanted, write, shows_progress=shows_progress)
        finally:
            await database.close()


async def _copy(connection: AsyncConnection, wanted: UsageFilter, write: Write, *, shows_progress: bool) -> None:
    total = await count_usage(connection, wanted) if shows_progress else None
    with _progress(total) as bar:
        task = bar.add_task("usage", total=total)
        async for row in stream_usage(connection, wanted):
            write(row)
            bar.advance(task)


def _progress(total: int | None) -> Progress:
    """A bar on stderr, and nothing where nobody would see it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=total is None, transient=True)


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    """What is written to a file stands under another name until it is whole."""
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
        return lambda row: stream.write(f"{json.dumps(_plain(row), ensure_ascii=False, default=_json)}\n")
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(COLUMNS)
    return lambda row: table.writerow([_cell(value) for value in _plain(row).values()])


def _plain(row: UsageRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in COLUMNS}


def _cell(value: object) -> object:
    """NULL is an empty cell."""
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _json(value: object) -> object:
    """Money stays exact: numeric(12, 6) has fewer digits than a float."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
