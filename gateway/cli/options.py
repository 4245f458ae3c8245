"""The options that commands share, and how a configuration is read for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.config import Config, load

DEFAULT_CONFIG = Path("gateway.yaml")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The configuration; ./gateway.yaml where there is one.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where embedded stores, secrets and spools live.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


def read(
    config: Path | None, data_dir: Path | None = None, *, overrides: Mapping[str, Any] | None = None, keep: bool = True
) -> Config:
    """The effective configuration. Raises ConfigError with every problem found."""
    path = config if config is not None or not DEFAULT_CONFIG.exists() else DEFAULT_CONFIG
    chosen = dict(overrides or {})
    if data_dir is not None:
        chosen["data_dir"] = str(data_dir)
    return load(path, overrides=chosen, persist_secrets=keep)
