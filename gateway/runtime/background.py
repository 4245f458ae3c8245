"""Builds and runs the background workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx

from gateway.config import Config
from gateway.config.operation.records import Bucket
from gateway.ledger.db.notifications import CHANNELS
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.notifications.email_templates import TemplateContext
from gateway.notifications.mailer import LogMailer, Mailer, SmtpMailer
from gateway.notifications.webhook import Webhook
from gateway.runtime.health.readiness import Readiness
from gateway.runtime.payments import invoice_workers, open_providers, payment_workers
from gateway.runtime.store_connections import BACKGROUND_TIMEOUT_SECONDS, open_stores, probe_of_stores
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.overage import OverageWorker
from gateway.workers.billing.renewals import AdvanceNoticeWorker, RenewalWorker
from gateway.workers.billing.report_months import MonthCloser
from gateway.workers.cleanup import CleanupWorker, IdempotencyCleaner
from gateway.workers.notifications import NotificationSender
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.runner import Runner, Worker
from gateway.workers.usage.archive_folder import ArchiveFolder, ArchivePlace
from gateway.workers.usage.archives import Archives
from gateway.workers.usage.hold_sweeper import HoldSweeper
from gateway.workers.usage.reconciliation import NightlyReconciliation, Reconciler
from gateway.workers.usage.retention import MonthPartitionWorker, RetentionWorker
from gateway.workers.usage.sink import UsageSink
from gateway.workers.usage.store_watch import PostgresEpochRegister, StoreWatch
from gateway.workers.usage.usage_writer import GatheringWriter, UsageWriter


@asynccontextmanager
async def background(config: Config, readiness: Readiness | None = None) -> AsyncIterator[None]:
    """Runs all background workers for the time of the block. Their probe joins `readiness`."""
    async with AsyncExitStack() as stack:
        stores = open_stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS)
        database, redis_client = await stack.enter_async_context(stores)
        if readiness is not None:
            readiness.add(probe_of_stores(database, redis_client))
        providers = await stack.enter_async_context(open_providers(config))
        partitions = config.redis.partitions
        register = PostgresEpochRegister(database)
        meter = Meter(redis_client, partitions=partitions, owner="worker", register=register)
        journal = Journal(redis_client, partitions)
        notifiers = await stack.enter_async_context(notification_workers(config, database))
        grace = timedelta(seconds=config.billing.past_due_grace_seconds)
        workers: tuple[Worker, ...] = (
            GatheringWriter(UsageWriter(database, journal)),
            HoldSweeper(meter, Holds(redis_client, partitions)),
            OutboxPublisher(database, meter),
            StoreWatch(meter),
            MonthPartitionWorker(database),
            RenewalWorker(database, journal, grace=grace),
            CreditExpiryWorker(database, journal, grace=grace),
            OverageWorker(database),
            MonthCloser(database, journal, value=config.credits.money),
            AdvanceNoticeWorker(database, grace=grace),
            IdempotencyCleaner(database),
            NightlyReconciliation(Reconciler(database, AccountSnapshotReader(redis_client, meter))),
            *invoice_workers(config, database, journal),
            *payment_workers(config, database, providers),
            *notifiers,
            *_usage_storage(config, database, journal),
        )
        async with Runner(*workers):
            yield


def _usage_storage(config: Config, database: Database, journal: Journal) -> tuple[Worker, ...]:
    """The workers that copy usage, and drop its old months."""
    usage = config.usage
    sinks = () if usage.sink is None else (UsageSink(database, usage.sink),)
    if usage.keep_months is None:
        return sinks
    archives = None if usage.archive is None else Archives(_archive_place(config, usage.archive), usage.archive_format)
    worker = RetentionWorker(
        database, journal, keep_months=usage.keep_months, archives=archives, has_sink=usage.sink is not None
    )
    return (*sinks, worker)


def _archive_place(config: Config, archive: Path | Bucket) -> ArchivePlace:
    if isinstance(archive, Path):
        return ArchiveFolder(archive)
    from gateway.workers.usage.archive_bucket import ArchiveBucket  # here, since it needs an extra

    return ArchiveBucket(archive, config.data_dir / "archive-drafts")


@asynccontextmanager
async def notification_workers(config: Config, database: Database) -> AsyncIterator[tuple[Worker, ...]]:
    """The workers that notify users and the operator's system, and the one that cleans up after them."""
    async with httpx.AsyncClient(follow_redirects=False) as http:
        url, secrets = config.notices.webhook_url, config.secrets.webhook_secrets
        webhook = Webhook(url, secrets, http) if url and secrets else None
        context = TemplateContext(
            secret=config.secrets.jwt_secret,
            verify_link=config.auth.verify_link or config.portal.link("/verify?token={token}"),
            reset_link=config.auth.reset_link or config.portal.link("/reset?token={token}"),
            credit_value=config.credits.money,
            operator=config.portal.name,
            portal=config.portal.link(""),
            folder=config.mail.templates,
        )
        mailer, unmailed = _mailer(config), config.notices.without_mail
        yield (
            *(
                NotificationSender(database, mailer, webhook, context=context, unmailed=unmailed, channels=(channel,))
                for channel in CHANNELS
            ),
            CleanupWorker(database, remember_erased=timedelta(seconds=config.auth.remember_erased_seconds)),
        )


def _mailer(config: Config) -> Mailer:
    if config.mail.smtp is None:
        return LogMailer()
    return SmtpMailer(config.mail.smtp, sender=config.mail.sender, operator=config.portal.name)
