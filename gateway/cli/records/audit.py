"""`gateway audit verify`."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Annotated

import typer

from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config
from gateway.cli.installation import open_database
from gateway.config import Config
from gateway.ledger.audit import audit_chain
from policies.audit_chain import ChainBreak, Head

app = typer.Typer(help="The audit log as a chain.", no_args_is_help=True)

_ANCHOR = re.compile(r"\d+:[0-9a-f]{64}", re.ASCII)


@app.callback()
def group() -> None:
    """Keeps typer from making the only command the group itself."""


@app.command()
def verify(
    anchor: Annotated[
        str | None,
        typer.Option(help="A head that an earlier run printed, kept elsewhere: finds that newer rows were replaced."),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Walk the audit log from its first row to its last. Exit 1 at the first that was changed, removed or moved."""
    if anchor is not None and not _ANCHOR.fullmatch(anchor):
        raise typer.BadParameter("must be a head as `gateway audit verify` prints it, NUMBER:HASH", param_hint="anchor")
    head, rows, broken = asyncio.run(_verify(load_config(config, data_dir), anchor))
    if as_json:
        found = None if broken is None else {"id": broken.id, "reason": broken.reason}
        typer.echo(json.dumps({"rows": rows, "head": head.anchor, "broken": found}))
    elif broken is None:
        typer.echo(f"{rows} rows hold, head {head.anchor}")
    else:
        typer.echo(f"row {broken.id}: {broken.reason}" if broken.id else f"head: {broken.reason}")
    if broken is not None:
        raise typer.Exit(1)


async def _verify(config: Config, anchor: str | None) -> tuple[Head, int, ChainBreak | None]:
    keys = audit_chain.keys_of(config.secrets.peppers)
    async with open_database(config, statement_timeout_seconds=0) as (_, database), database.read() as connection:
        found = await audit_chain.verify(connection, keys, anchor=anchor)
        head = await audit_chain.get_head(connection)
    return (head, 0, found) if isinstance(found, ChainBreak) else (head, found.rows, None)
