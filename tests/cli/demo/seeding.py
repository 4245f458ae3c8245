"""The demo month in a database of its own, as `gateway demo` seeds it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from gateway.cli.demo.customers import CUSTOMERS
from gateway.cli.demo.month import seed_month
from gateway.cli.installation import seed
from gateway.config import Config, load
from gateway.ledger.accounts.api_keys import Fingerprint
from gateway.ledger.audit import audit_chain
from gateway.ledger.db.session import Database
from gateway.runtime.payments import build_issuer

NOW = datetime(2026, 11, 18, 15, 30, tzinfo=UTC)
PEPPERS = {1: b"pepper of the month"}
# Who calls a hundred times a day, or for two months, says no more about the month than who calls seven times for one.
FEW_CALLS = tuple(
    replace(customer, calls=min(customer.calls, 7), since=min(customer.since, 36)) for customer in CUSTOMERS
)
DEMO_KEY = Fingerprint("gw_live_demo", "demo", b"k" * 32)


def demo_config(data_dir: Path) -> Config:
    path = Path(__file__).parents[3] / "gateway/demo/gateway.yaml"
    return load(path, {}, overrides={"data_dir": str(data_dir)}, persist_secrets=False)


async def seed_demo(url: str, config: Config, *, now: datetime = NOW) -> UUID | None:
    """The id of the demo user; None where the month is there already."""
    database = Database(url, audit_keys=audit_chain.keys_of(PEPPERS))
    try:
        async with database.transaction() as connection:
            await seed(connection, config)
            return await seed_month(
                connection,
                routes={route.name: route for route in config.routes},
                issuer=build_issuer(config),
                demo_key=DEMO_KEY,
                password_hash="none",
                now=now,
                customers=FEW_CALLS,
            )
    finally:
        await database.close()
