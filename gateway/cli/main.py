"""The command `gateway`: every subcommand under its name, every expected failure as one line."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from gateway.backup.backup_file import BackupDamaged
from gateway.backup.dump import NothingToBackUp
from gateway.backup.restore import RestoreRefused
from gateway.cli import audit, credits, importing, keys, migrate, plans, price, report, serving, usage, users
from gateway.cli.stores import backup, reconcile
from gateway.config import ConfigError
from gateway.embedded.errors import EmbeddedError
from gateway.importing.source import SourceUnusable
from gateway.ledger.accounts.peppers import WrongPepper
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.pooler import UnfitPooler
from gateway.ledger.db.schema import SchemaUnfit, UnknownRevision
from gateway.ledger.db.session import DatabaseUnavailable, InvalidDatabaseUrl
from gateway.meter.client.errors import MeterUnavailable, UnsupportedServer
from gateway.runtime.sockets import AddressUnusable
from gateway.runtime.supervisor import ChildFailed

app = typer.Typer(
    name="gateway",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for commands in (serving.app, migrate.app, reconcile.app, backup.app, price.app, importing.app, report.app):
    app.registered_commands += commands.registered_commands
app.add_typer(users.app, name="users")
app.add_typer(keys.app, name="keys")
app.add_typer(plans.app, name="plans")
app.add_typer(credits.app, name="credits")
app.add_typer(usage.app, name="usage")
app.add_typer(audit.app, name="audit")


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


_EXPECTED = (
    AddressUnusable,
    AlreadyExists,
    BackupDamaged,
    ChildFailed,
    DatabaseUnavailable,
    EmbeddedError,
    InUse,
    InvalidDatabaseUrl,
    InvalidValue,
    MeterUnavailable,
    NotFound,
    NothingToBackUp,
    RestoreRefused,
    SchemaUnfit,
    SourceUnusable,
    UnfitPooler,
    UnknownRevision,
    UnsupportedServer,
    WrongPepper,
)


def main() -> None:
    """Exit codes: 0 done, 1 could not be done, 2 wrong usage or configuration."""
    try:
        app()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except _EXPECTED as error:
        sys.stderr.write(f"gateway: {error}\n")
        sys.exit(1)
