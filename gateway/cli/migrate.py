"""`gateway migrate`."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from gateway.cli.console import ConfigFile, DataDir, load_config
from gateway.cli.installation import log_warnings
from gateway.config import Config
from gateway.ledger.db import schema
from gateway.runtime.stores import open_store_servers

DROPS_DATA = (
    "Going down drops what the newest migration has added, with its data, also under a gateway that serves."
    " An older version of the gateway may not need it: see docs/rollouts.md. Go down?"
)
app = typer.Typer()


class Step(StrEnum):
    UP = "up"
    DOWN = "down"
    STATUS = "status"
    NEW = "new"


@app.command()
def migrate(
    step: Annotated[Step, typer.Argument(help="up to the newest, down by one, status, or new NAME.")] = Step.UP,
    name: Annotated[str | None, typer.Argument(help="What a new migration does.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before going down.")] = False,
) -> None:
    """Move the schema of the database, or say where it stands."""
    if step is Step.NEW:
        if not name:
            raise typer.BadParameter("`migrate new` needs a NAME")
        typer.echo(schema.new(name))
        return
    if step is Step.DOWN and not is_confirmed:
        typer.confirm(DROPS_DATA, abort=True, err=True)
    typer.echo(asyncio.run(_move(load_config(config, data_dir, roles=()), step)))


async def _move(config: Config, step: Step) -> str:
    log_warnings()
    async with open_store_servers(config) as store_urls:
        if step is Step.UP:
            return f"at {await schema.upgrade(store_urls.database_url)}"
        if step is Step.DOWN:
            return f"at {await schema.downgrade(store_urls.database_url, '-1')}"
        current = await schema.current(store_urls.database_url)
        head = schema.head()
        return f"at {current or 'nothing'}" + ("" if current == head else f", newest is {head}")
