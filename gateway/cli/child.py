"""`gateway child`: one process of a gateway, as its supervisor starts it.

Such a process holds what it runs for as long as it lives, so it imports neither the other commands nor what prepares
stores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gateway.cli.console import ConfigFile, load_config
from gateway.config import Config, with_reloaded
from gateway.runtime.roles import Wiring, run_child
from gateway.runtime.serving import Role

app = typer.Typer()


@app.command(hidden=True)
def child(
    roles: Annotated[list[Role], typer.Argument()],
    line: Annotated[int, typer.Option()],
    listen: Annotated[list[int], typer.Option()] = [],  # noqa: B006 - typer copies it
    portal: Annotated[str | None, typer.Option()] = None,
    public: Annotated[str, typer.Option()] = "",
    config: ConfigFile = None,
    started: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Serves its roles until a signal or the end of its supervisor.

    `listen` are the descriptors of its sockets, `line` that of the line to its supervisor. The portal answers at
    `portal`, public listeners at `public`. `started` is the configuration with which the gateway started: of another
    that was accepted since, a process takes what a reload applies.
    """

    def read() -> Config:
        return load_config(config, roles=roles)

    loaded = read()
    if started is not None and started.read_text("utf-8") != loaded.text:
        loaded = with_reloaded(load_config(started, roles=roles), loaded)
    wiring = Wiring(line, listen, portal, public)
    uvloop.run(run_child(loaded, roles, wiring, reload_config=lambda: with_reloaded(loaded, read())))
