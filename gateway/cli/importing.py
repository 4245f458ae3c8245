"""`gateway import`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_rows
from gateway.cli.installation import open_database
from gateway.cli.stores.reconcile import STATEMENT_TIMEOUT_SECONDS, reconcile_all
from gateway.cli.transactions import publish
from gateway.clock import now
from gateway.config import Config
from gateway.importing.import_record import ImportCanceled, ImportRecord, record_import
from gateway.importing.importer import Importer, ImportReport, Observer, RowsRefused
from gateway.importing.mapping import PRESETS, InvalidMapping, SourceMapping, load, load_preset, preset_text
from gateway.importing.records import Problem
from gateway.importing.sections import Section
from gateway.importing.source import open_source
from gateway.importing.targets import Target
from gateway.ledger.db.session import Database

app = typer.Typer()

_PRESETS = "; ".join(f"{name}: {about}" for name, about in PRESETS.items())


@app.command("import")
def import_source(
    url: Annotated[
        str,
        typer.Argument(
            help="postgresql://…, mysql://… or sqlite:///FILE. It is opened to read.",
            metavar="URL",
            envvar="IMPORT_SOURCE_URL",  # others on the machine see arguments, and this one has a password
        ),
    ] = "",
    mapping: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Which tables and columns are what (YAML).")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"A mapping of a common shape. {_PRESETS}.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Instead of the `source` of the mapping: names the source for good.")
    ] = None,
    show_preset: Annotated[bool, typer.Option("--show-preset", help="Print the preset's file, to start from.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show counts and what does not fit, and write nothing.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that does not fit.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take users, plans, subscriptions, credits, keys, payments and usage over from another system's database.

    Repeat it to resume an import that broke off: what is here is passed over. Exit 1 where rows were refused, where an
    operator canceled it in the console, or where the books do not agree afterwards.
    """
    if preset is not None and preset not in PRESETS:
        raise typer.BadParameter(f"there are {', '.join(PRESETS)}", param_hint="--preset")
    if (mapping is None) == (preset is None):
        raise typer.BadParameter("give one of --mapping and --preset")
    if show_preset:
        typer.echo(preset_text(preset or next(iter(PRESETS))), nl=False)
        return
    if not url:
        raise typer.BadParameter("where to import from is missing", param_hint="URL")
    try:
        described = load_preset(preset) if preset is not None else load(mapping or Path())
        described = described if source is None else described.named(source)
        settings = load_config(config, data_dir)
        summary = asyncio.run(_import(settings, url, described, is_dry=dry_run, is_strict=strict, as_json=as_json))
    except InvalidMapping as error:
        raise typer.BadParameter(str(error), param_hint="--mapping" if mapping else "--preset") from error
    except RowsRefused as error:
        typer.echo(f"gateway: nothing of this batch was written: {error}", err=True)
        raise typer.Exit(1) from error
    except ImportCanceled as canceled:
        typer.echo(f"gateway: {canceled}", err=True)
        raise typer.Exit(1) from canceled
    if summary["refused"] or summary.get("differences"):
        raise typer.Exit(1)


async def _import(
    config: Config, url: str, mapping: SourceMapping, *, is_dry: bool, is_strict: bool, as_json: bool
) -> dict[str, int]:
    target = Target(
        source=mapping.source,
        now=now(),
        key_prefix=config.keys.prefix,
        peppers=config.secrets.peppers,
        is_dry=is_dry,
    )
    opened = open_database(config, statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
    async with opened as (stores, database), open_source(url) as source:
        with _progress() as (progress, console):
            observer = Observer(problem=lambda each: _print_problem(each, console, as_json=as_json), progress=progress)
            try:
                async with _record(database, mapping.source, is_dry=is_dry) as record:
                    importer = Importer(database, source, target, observer=observer, is_strict=is_strict, record=record)
                    report = await importer.run(mapping)
            finally:
                if not is_dry:
                    await publish(config, stores.redis_url, database)
    books = {} if is_dry else await reconcile_all(config, as_json=as_json)
    _print_report(report, books, is_dry=is_dry, as_json=as_json)
    return {"refused": report.refused, **books}


def _record(database: Database, source: str, *, is_dry: bool) -> AbstractAsyncContextManager[ImportRecord | None]:
    return nullcontext() if is_dry else record_import(database, source)


@contextmanager
def _progress() -> Iterator[tuple[Any, Console]]:
    """Bars on stderr where that is a terminal, and a console that prints above them."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[Section, TaskID] = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as shown:

        def progress(section: Section, done: int, total: int) -> None:
            if section not in bars:
                bars[section] = shown.add_task(str(section), total=total)
            shown.update(bars[section], completed=done, total=max(done, total))

        yield progress, console


def _print_problem(problem: Problem, console: Console, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"problem": asdict(problem)}, default=str))
        return
    place = f"{problem.table} row {problem.row}" + (f", {problem.column}" if problem.column else "")
    line = f"{place}: {problem.reason}"
    if sys.stderr.isatty():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        typer.echo(line, err=True)


def _print_report(report: ImportReport, books: Mapping[str, int], *, is_dry: bool, as_json: bool) -> None:
    sections = {str(section): asdict(counts) for section, counts in report.sections.items()}
    if as_json:
        summary = {"dry_run": is_dry, "sections": sections, "notes": report.notes, "reconciled": dict(books) or None}
        typer.echo(json.dumps(summary))
        return
    print_rows([{"section": name, **counts} for name, counts in sections.items()], as_json=False)
    for note, count in report.notes.items():
        typer.echo(f"{count} {note}")
    if is_dry:
        typer.echo("dry run: nothing was written")
    else:
        typer.echo("reconciled: " + ", ".join(f"{name} {count}" for name, count in books.items()))
