"""plans list, apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli import options
from gateway.cli.desk import ACTOR, at_desk, preview
from gateway.cli.installation import offer_of, route_permissions
from gateway.cli.options import AsJson, ConfigFile, DataDir
from gateway.cli.output import listing
from gateway.ledger import audit, offers, plans
from gateway.ledger.offers import PlanChange
from gateway.ledger.plans import Tier

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

    listing(at_desk(options.read(config, data_dir), work), as_json=as_json)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="A gateway.yaml, or a file with a list under `plans`.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the plans be as the file has them: those it names are created or overwritten, others stay."""
    written = [offer_of(spec) for spec in options.read(file, keep=False).plans]
    settings = options.read(config, data_dir)

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        changes = await offers.apply(connection, written, route_permissions=route_permissions(settings))
        for change in changes:
            await _note(connection, change)
        return [row for change in changes for row in _rows(change)]

    found = preview(settings, work)
    listing(found, as_json=as_json)
    if found and (yes or typer.confirm("apply?", err=True)):
        at_desk(settings, work)
        typer.echo("applied: effective from each subscriber's next request", err=True)


def _rows(change: PlanChange) -> list[dict[str, Any]]:
    return [
        {"plan": change.plan_id, "field": field, "before": _shown(before), "after": _shown(after)}
        for field, (before, after) in change.changed.items()
        if before != after
    ]


async def _note(connection: AsyncConnection, change: PlanChange) -> None:
    before, after = ({row["field"]: row[side] for row in _rows(change)} for side in ("before", "after"))
    await audit.append(
        connection,
        actor=ACTOR,
        action="plans.create" if change.is_new else "plans.change",
        entity="plan",
        entity_id=change.plan_id,
        before=None if change.is_new else before,
        after=after,
    )


def _shown(value: object) -> object:
    """What is no plain value of JSON as text, the same in a table, a line of JSON and the audit log."""
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    if isinstance(value, tuple):
        return "; ".join(_tier(tier) for tier in value)
    return value if value is None or isinstance(value, bool | int | str | dict) else str(value)


def _tier(tier: Tier) -> str:
    units = "the rest" if tier.up_to is None else f"up to {tier.up_to}"
    return f"{units}: {tier.unit_price} each" + (f" and {tier.flat_price}" if tier.flat_price else "")
