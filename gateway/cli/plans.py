"""plans list, apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli import options
from gateway.cli.desk import at_desk, preview
from gateway.cli.installation import terms_of
from gateway.cli.options import AsJson, ConfigFile, DataDir
from gateway.cli.output import listing
from gateway.ledger import plans

app = typer.Typer(help="Plans.", no_args_is_help=True)


@app.command("list")
def list_all(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List plans in the order they are offered."""

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [
            {
                "id": str(plan.id),
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

    listing(at_desk(options.read(config, data_dir), work), as_json=as_json)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="A gateway.yaml, or a file with a list under `plans`.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make the plans be as the file has them: those it names are created or overwritten, others stay."""
    terms = [terms_of(spec) for spec in options.read(file, keep=False).plans]

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [
            {"plan": change.name, "field": field, "before": before, "after": after}
            for change in await plans.apply(connection, terms)
            for field, (before, after) in change.changed.items()
        ]

    settings = options.read(config, data_dir)
    found = preview(settings, work)
    listing(found, as_json=False)
    if found and (yes or typer.confirm("apply?")):
        at_desk(settings, work)
        typer.echo("applied: effective from each subscriber's next request")
