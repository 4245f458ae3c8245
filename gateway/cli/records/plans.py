"""`gateway plans list` and `apply`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_rows
from gateway.cli.installation import configured_plan, route_permissions
from gateway.cli.transactions import ACTOR, dry_run, run_in_transaction
from gateway.config.document import read_yaml
from gateway.ledger.audit import audit_log
from gateway.ledger.catalogue import configured_plans, plans
from gateway.ledger.catalogue.configured_plans import PlanChange
from gateway.ledger.catalogue.plans import Tier

app = typer.Typer(help="Plans.", no_args_is_help=True)


@app.command("list")
def list_all(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List plans in the order they are offered."""

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [
            {
                "id": plan.id,
                "name": plan.terms.name,
                "price": f"{plan.terms.price} {plan.terms.currency}",
                "credits_per_period": plan.terms.credits_per_period,
                "requests_per_minute": plan.terms.requests_per_minute,
                "requests_per_hour": plan.terms.requests_per_hour,
                "is_active": plan.terms.is_active,
                "version": plan.version,
            }
            for plan in await plans.list_plans(connection)
        ]

    print_rows(run_in_transaction(load_config(config, data_dir), work), as_json=as_json)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="A gateway.yaml, or a file with a list under `plans`.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the plans be as the file has them: those it names are created or overwritten, others stay."""
    written = [configured_plan(spec) for spec in load_config(file, persist_secrets=False, roles=()).plans]
    if read_yaml(file.read_text(), str(file)).tree.get("plans") is None:  # the gateway's own would stand for them
        raise typer.BadParameter(f"{file} has no `plans`, so there is nothing to apply", param_hint="FILE")
    settings = load_config(config, data_dir)

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        changes = await configured_plans.apply(connection, written, route_permissions=route_permissions(settings))
        for change in changes:
            await _record(connection, change)
        return [row for change in changes for row in _rows(change)]

    found = dry_run(settings, work)
    if as_json:
        print_rows(found, as_json=True)
    else:
        _show(found)
    if not found or not (yes or _is_confirmed()):
        return
    run_in_transaction(settings, work)
    typer.echo("applied: effective from each subscriber's next request", err=True)


def _is_confirmed() -> bool:
    """Asks at a terminal and aborts on a no; elsewhere exits with 1."""
    if not sys.stdin.isatty():
        typer.echo("gateway: nothing applied: this is no terminal to ask at; give --yes to apply the above", err=True)
        raise typer.Exit(1)
    return typer.confirm("apply?", err=True, abort=True)


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The changes, plan by plan."""
    console = Console()
    if not rows:
        console.print("nothing to change: the plans are as the file has them")
    for plan, changed in groupby(rows, key=lambda row: row["plan"]):
        fields = list(changed)
        is_new = all(row["before"] is None for row in fields)
        table = Table(title=f"{plan} (new)" if is_new else plan, title_justify="left", box=SIMPLE_HEAD)
        for heading in ("field", "after") if is_new else ("field", "before", "after"):
            table.add_column(heading, overflow="fold")
        for row in fields:
            before, after = (_text(row[side]) for side in ("before", "after"))
            table.add_row(row["field"], *([] if is_new else [Text(before, "red")]), Text(after, "green"))
        console.print(table)


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _rows(change: PlanChange) -> list[dict[str, Any]]:
    return [
        {"plan": change.plan_id, "field": field, "before": _plain_value(before), "after": _plain_value(after)}
        for field, (before, after) in change.changed.items()
        if before != after
    ]


async def _record(connection: AsyncConnection, change: PlanChange) -> None:
    before, after = ({row["field"]: row[side] for row in _rows(change)} for side in ("before", "after"))
    await audit_log.append(
        connection,
        actor=ACTOR,
        action="plans.create" if change.is_new else "plans.change",
        entity="plan",
        entity_id=change.plan_id,
        before=None if change.is_new else before,
        after=after,
    )


def _plain_value(value: object) -> object:
    """A value as tables, lines of JSON and the audit log show it: a plain value of JSON, or text."""
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    if isinstance(value, tuple):
        return "; ".join(_tier(tier) for tier in value)
    return value if value is None or isinstance(value, bool | int | str | dict) else str(value)


def _tier(tier: Tier) -> str:
    units = "the rest" if tier.up_to is None else f"up to {tier.up_to}"
    return f"{units}: {tier.unit_price} each" + (f" and {tier.flat_price}" if tier.flat_price else "")
