"""The command `gateway`: every subcommand under its name, every expected failure as one line.

A process imports the module of its own command and no other: each process of the gateway starts here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from gateway.config import ConfigError

_MODULES = {
    "serve": "serving",
    "proxy": "serving",
    "admin": "serving",
    "worker": "serving",
    "demo": "demo.running",
    "check": "serving",
    "child": "child",
    "migrate": "migrate",
    "reconcile": "stores.reconcile",
    "resync": "stores.reconcile",
    "backup": "stores.backup",
    "restore": "stores.backup",
    "price": "price",
    "import": "importing",
    "report": "report",
}
_GROUPS = ("users", "keys", "plans", "credits", "usage", "audit")


class _Commands(Mapping[str, Any]):
    """Commands and groups of commands by their names, imported when they are asked for."""

    def __getitem__(self, name: str) -> Any:
        is_group = name in _GROUPS
        module = f"records.{name}" if is_group else _MODULES[name]
        try:
            commands = _imported(module)
            found = commands if is_group else commands.commands[name]
        except KeyError as error:  # which would say that there is no such command
            raise ImportError(f"the command {name} cannot be imported: {error!r}") from error
        found.name = name
        return found

    def __iter__(self) -> Iterator[str]:
        yield from (*_MODULES, *_GROUPS)

    def __len__(self) -> int:
        return len(_MODULES) + len(_GROUPS)


def _imported(module: str) -> Any:
    commands = get_group(import_module(f"gateway.cli.{module}").app)
    if module != "child":  # which imports more as it starts, and then tunes the collection (`runtime/roles.py`)
        gc.enable()
    return commands


class _Gateway(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": _Commands()})


app = typer.Typer(
    name="gateway",
    cls=_Gateway,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"gateway {version('metering-gateway')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Verifies keys, enforces limits, deducts credits, forwards, and bills every call exactly once."""


def run() -> None:
    try:
        app()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except Exception as error:
        from gateway.cli.failures import is_expected

        if is_expected(error):
            sys.stderr.write(f"gateway: {error}\n")
            sys.exit(1)
        raise
