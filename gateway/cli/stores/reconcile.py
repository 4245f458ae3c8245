"""`gateway reconcile` and `gateway resync`: whether both stores agree, and how to make them agree."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from gateway import logs
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config
from gateway.cli.installation import open_database, open_redis
from gateway.cli.transactions import ACTOR
from gateway.config import Config
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.meter import Meter
from gateway.workers.usage.reconciliation import Finding, Reconciler
from gateway.workers.usage.store_watch import PostgresEpochRegister
from policies.usage.epochs import Agreement

# Sums over the ledgers of a page of busy accounts take long; they hold no lock.
STATEMENT_TIMEOUT_SECONDS = 300.0

app = typer.Typer()


@app.command()
def reconcile(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="End each difference in favour of the balance row: the ledger gets an adjustment, grants are filled"
            " up or burnt, the balance in Redis is set right. Each leaves an entry in the audit log.",
        ),
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Prove for each account that ledger, grants, balance and Redis agree. Exit 1 while a difference is left."""
    summary = asyncio.run(reconcile_all(load_config(config, data_dir), repair=repair, as_json=as_json))
    typer.echo(json.dumps(summary) if as_json else ", ".join(f"{name} {count}" for name, count in summary.items()))
    if summary["differences"] > summary["repaired"]:
        raise typer.Exit(1)


@app.command()
def resync(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Have every account loaded into Redis again from PostgreSQL, the journal and open holds. Exit 1 if some cannot be.

    Gateways notice by themselves that a store has gone back; this is for the cases in which they cannot. Calls get 503
    for 1.5 s. No call and no charge is lost.
    """
    logs.configure(role="resync", level=logging.WARNING)
    summary = asyncio.run(_resync(load_config(config, data_dir)))
    typer.echo(json.dumps(summary) if as_json else ", ".join(f"{name} {count}" for name, count in summary.items()))
    if summary["begun"] < summary["partitions"]:
        raise typer.Exit(1)


async def _resync(config: Config) -> dict[str, int]:
    """How many partitions there are, how many have begun a new epoch, and in how many a store had gone back."""
    async with open_database(config) as (stores, database), open_redis(stores.redis_url) as redis_client:
        register, partitions = PostgresEpochRegister(database), config.redis.partitions
        meter = Meter(redis_client, partitions=partitions, owner=ACTOR, register=register)
        reasons = Counter((await meter.rebuild()).values())
    behind = {str(each): reasons[each] for each in (Agreement.POSTGRESQL_BEHIND, Agreement.REDIS_BEHIND)}
    return {"partitions": partitions, "begun": reasons.total(), **behind}


async def reconcile_all(config: Config, *, repair: bool = False, as_json: bool) -> dict[str, int]:
    """Reconciles every account and prints each difference; gives the sums."""
    summary = dict.fromkeys(("accounts", "hot", "differences", "credits", "repaired"), 0)
    async with _reconciler(config, repair_as=ACTOR if repair else None) as reconciler:
        async for page in reconciler.pages():
            for finding in page.findings:
                row = _row(finding)
                typer.echo(json.dumps(row) if as_json else "  ".join(f"{name}={value}" for name, value in row.items()))
            summary["accounts"] += page.accounts
            summary["hot"] += page.loaded
            summary["differences"] += len(page.findings)
            summary["credits"] += sum(abs(finding.difference.credits) for finding in page.findings)
            summary["repaired"] += sum(finding.is_repaired for finding in page.findings)
    return summary


@asynccontextmanager
async def _reconciler(config: Config, *, repair_as: str | None) -> AsyncIterator[Reconciler]:
    opened = open_database(config, statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
    async with opened as (stores, database), open_redis(stores.redis_url) as redis_client:
        meter = Meter(redis_client, partitions=config.redis.partitions, owner=ACTOR)
        yield Reconciler(database, AccountSnapshotReader(redis_client, meter), repair_as=repair_as)


def _row(finding: Finding) -> dict[str, Any]:
    difference = finding.difference
    return {
        "user_id": str(finding.user_id),
        "book": str(difference.book),
        "expected": difference.expected,
        "found": difference.found,
        "repaired": finding.is_repaired,
    }
