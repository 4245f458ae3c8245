"""`gateway report`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer

from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_rows
from gateway.cli.installation import open_database
from gateway.clock import now
from gateway.config import Config
from gateway.csv_rows import CsvWriter
from gateway.ledger.reports import months
from gateway.ledger.reports.months import Month
from gateway.ledger.reports.rows import KINDS, Report, month_of
from policies.billing.money import plain

app = typer.Typer()

Reports = Mapping[Report, Sequence[Mapping[str, Any]]]


def month(word: str) -> date:
    """The first day of a month such as 2026-10."""
    try:
        return date.fromisoformat(f"{word.strip()}-01")
    except ValueError:
        raise typer.BadParameter(f"{word!r} is no month such as 2026-10") from None


@app.command()
def report(
    of: Annotated[
        date | None, typer.Argument(parser=month, metavar="[MONTH]", help="A month such as 2026-10; else the current.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all rows as CSV; `report` names the report.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Report on a month: revenue, MRR, credits outstanding, largest accounts, outcomes, refusals and margins."""
    if as_csv and as_json:
        raise typer.BadParameter("either --csv or --json")
    current = month_of(now())
    wanted = current if of is None else of
    if wanted > current:
        raise typer.BadParameter(f"{wanted:%Y-%m} has not begun", param_hint="MONTH")
    about, reports = asyncio.run(_read(load_config(config, data_dir), wanted))
    if as_json:
        closed_at = None if about is None else about.closed_at
        head = {"month": f"{wanted:%Y-%m}", "closed_at": closed_at}
        typer.echo(json.dumps({**head, **{str(name): rows for name, rows in reports.items()}}, default=_json))
    elif as_csv:
        _print_csv(reports)
    else:
        _print_tables(wanted, about, reports)


async def _read(config: Config, wanted: date) -> tuple[Month | None, Reports]:
    found = {}
    async with open_database(config) as (_, database), database.snapshot() as connection:
        listed = await months.list_months(connection, now=now())
        for name in Report:
            rows = await months.get(connection, name, month=wanted, value=config.credits.money)
            found[name] = [asdict(row) for row in rows]
    return next((each for each in listed if each.month == wanted), None), found


def _print_tables(wanted: date, about: Month | None, reports: Reports) -> None:
    if about is None or about.closed_at is None:
        typer.echo(f"{wanted:%Y-%m}, as it is now")
    else:
        typer.echo(f"{wanted:%Y-%m}, closed at {about.closed_at.isoformat(timespec='seconds')}")
        if about.late_requests or about.late_credits:
            typer.echo(f"{about.late_requests} calls and {about.late_credits} credits came later")
    for name, rows in reports.items():
        typer.echo(f"\n{name}")
        shown = [{key: _text(field) for key, field in row.items() if key != "month"} for row in rows]
        print_rows(shown, as_json=False)


def _print_csv(reports: Reports) -> None:
    """The columns of all reports; a row has those of its own."""
    columns = dict.fromkeys(("report", *(field for kind in KINDS.values() for field in kind.__dataclass_fields__)))
    writer = CsvWriter(typer.get_text_stream("stdout", encoding="utf-8"), line_end="\n")
    writer.write(columns)
    for name, rows in reports.items():
        for row in rows:
            fields = {"report": str(name), **row}
            writer.write(_text(fields.get(column)) for column in columns)


def _text(field: object) -> object:
    return plain(field) if isinstance(field, Decimal) else field


def _json(field: object) -> str:
    """Money is a string, so that it stays exact."""
    if isinstance(field, Decimal):
        return plain(field)
    return field.isoformat() if isinstance(field, datetime) else str(field)
