"""What commands share at the console: options, the configuration that they name, and output for people or programs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.config import Config, load
from gateway.config.secrets import COMMAND

DEFAULT_CONFIG = Path("gateway.yaml")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The configuration; ./gateway.yaml where there is one.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where embedded stores, secrets and spools live.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


def load_config(
    config: Path | None,
    data_dir: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    persist_secrets: bool = True,
    roles: Collection[str] = (COMMAND,),
) -> Config:
    """The effective configuration, with the secrets that the roles use. Raises ConfigError with every problem found."""
    path = config if config is not None or not DEFAULT_CONFIG.exists() else DEFAULT_CONFIG
    settings = dict(overrides or {})
    if data_dir is not None:
        settings["data_dir"] = str(data_dir)
    return load(path, overrides=settings, persist_secrets=persist_secrets, roles=roles)


def print_object(fields: Mapping[str, Any], *, as_json: bool) -> None:
    """One line of JSON, or a line for each field."""
    if as_json:
        typer.echo(json.dumps(fields, default=str))
        return
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {'' if value is None else value}")


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """A line of JSON for each row, or a table."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, default=str))
        return
    if not rows:
        typer.echo("none")
        return
    cells = [tuple(rows[0]), *(tuple("" if value is None else str(value) for value in row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
