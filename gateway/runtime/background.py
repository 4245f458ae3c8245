"""Puts the workers together that everything relies on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

from gateway import metrics
from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.metrics import MetricsFlusher
from gateway.runtime.notifications import notification_workers
from gateway.runtime.payments import open_providers, payment_workers
from gateway.runtime.store_connections import BACKGROUND_TIMEOUT_SECONDS, open_stores
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.renewals import RenewalWorker
from gateway.workers.cleanup import IdempotencyCleaner
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.runner import Runner, Worker
from gateway.workers.usage.hold_sweeper import HoldSweeper
from gateway.workers.usage.reconciliation import NightlyReconciliation, Reconciler
from gateway.workers.usage.retention import MonthPartitionWorker, RetentionWorker
from gateway.workers.usage.usage_writer import GatheringWriter, UsageWriter


@asynccontextmanager
async def background(config: Config) -> AsyncIterator[None]:
    """The workers that everything relies on."""
    metrics.BUILD_INFO.labels(version("metering-gateway")).set(1)
    async with AsyncExitStack() as stack:
        stores = open_stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS)
        database, link = await stack.enter_async_context(stores)
        providers = await stack.enter_async_context(open_providers(config))
        partitions = config.redis.partitions
        meter = Meter(link, partitions=partitions, owner="worker")
        journal = Journal(link, partitions)
        tellers = await stack.enter_async_context(notification_workers(config, database))
        workers: tuple[Worker, ...] = (
            GatheringWriter(UsageWriter(database, journal)),
            HoldSweeper(meter, Holds(link, partitions)),
            OutboxPublisher(database, meter),
            MonthPartitionWorker(database),
            RenewalWorker(database, journal, grace=timedelta(seconds=config.billing.past_due_grace_seconds)),
            CreditExpiryWorker(database, journal),
            IdempotencyCleaner(database),
            MetricsFlusher(),
            NightlyReconciliation(Reconciler(database, AccountSnapshotReader(link, meter))),
            *payment_workers(config, database, providers),
            *tellers,
            *_retention(config, database, journal),
        )
        async with Runner(*workers):
            yield


def _retention(config: Config, database: Database, journal: Journal) -> tuple[RetentionWorker, ...]:
    months = config.usage.keep_months
    return () if months is None else (RetentionWorker(database, journal, keep_months=months),)
