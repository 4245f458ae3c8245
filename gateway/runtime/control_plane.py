"""Builds the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from secrets import token_bytes
from typing import Any

from gateway import metrics
from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.meter import Meter
from gateway.runtime.payments import build_checkout_service, open_providers
from gateway.runtime.store_connections import BACKGROUND_TIMEOUT_SECONDS, missing, open_stores
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.reconciliation import Reconciler


@asynccontextmanager
async def control_plane(config: Config) -> AsyncIterator[Any]:
    """The admin API. Imported here because FastAPI takes 0.4 s to import, which a public worker avoids."""
    from gateway.api.admin import build_admin

    async with (
        open_stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS) as (database, redis_client),
        open_providers(config) as providers,
    ):
        meter = Meter(redis_client, partitions=config.redis.partitions, owner="admin")
        yield build_admin(
            database=database,
            publish=OutboxPublisher(database, meter).publish_all,
            admin_token=config.secrets.admin_token,
            key_prefix=config.keys.prefix,
            peppers=config.secrets.peppers,
            entropy=token_bytes,
            meter=meter,
            routes=config.routes,
            past_due_grace=timedelta(seconds=config.billing.past_due_grace_seconds),
            credit_value=config.credits.money,
            reconcile_books=reconciliation(database, AccountSnapshotReader(redis_client, meter)),
            metrics_text=metrics.exposition,
            readiness=lambda: missing(database, redis_client),
            checkout_service=build_checkout_service(config, database, providers),
            hosts=(config.server.admin.host, *config.server.admin_hosts),
        )


def reconciliation(database: Database, audit: AccountSnapshotReader) -> Callable[[str | None], AsyncIterator[Any]]:
    """Reconciles all accounts, page by page, in the form that the admin API expects."""
    from gateway.api.admin.dependencies import ReconciledDifference, ReconciledPage

    async def pages(actor: str | None) -> AsyncIterator[ReconciledPage]:
        async for page in Reconciler(database, audit, repair_as=actor).pages():
            differences = tuple(
                ReconciledDifference(each.user_id, each.difference, each.is_repaired) for each in page.findings
            )
            yield ReconciledPage(page.accounts, page.loaded, differences)

    return pages
