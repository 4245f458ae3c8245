"""How a command answers: one line of JSON for programs, a table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer


def answer(found: Mapping[str, Any], *, as_json: bool) -> None:
    """One object."""
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    width = max(len(name) for name in found)
    for name, value in found.items():
        typer.echo(f"{name:<{width}}  {'' if value is None else value}")


def listing(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Many of one kind; in JSON one object a line."""
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
