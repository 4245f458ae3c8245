"""Issues the invoices of subscriptions that no provider bills: one for each period, once it has ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.invoicing import closing
from gateway.ledger.subscriptions import billing_spans, renewals
from gateway.ledger.subscriptions.billing_spans import BillingSpan
from gateway.ledger.subscriptions.subscriptions import get_existing
from gateway.meter.journal import Journal
from gateway.workers.quarantine import FAILURES, Quarantine
from policies.billing.issuing import Issuer

# Periods per query; each is closed in a transaction of its own.
BATCH_PERIODS = 100
# Longer than a month, so that most periods are counted at their end only.
COUNT_INTERVAL = timedelta(days=32)
LATE_USAGE_INTERVAL = timedelta(hours=6)

log = structlog.get_logger(__name__)


class InvoiceWorker:
    """Any number may run: each skips accounts that another one has locked, and a period is closed once.

    A period waits for `close_after` from its end, so that calls that were under way then are on its invoice; and for
    PostgreSQL to have its usage. While Redis is away nothing is closed, since the journal is unknown.
    """

    idle_seconds = 30.0

    def __init__(
        self,
        database: Database,
        journal: Journal,
        *,
        issuer: Issuer,
        close_after: timedelta,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._database = database
        self._journal = journal
        self._issuer = issuer
        self._close_after = close_after
        self._now = now
        self._quarantine = Quarantine("invoices", now)
        self._late_usage_at: datetime | None = None

    async def run_once(self) -> int:
        """Closes one batch of ended periods; gives how many. Raises MeterUnavailable."""
        now, quarantined = self._now(), self._quarantine.quarantined()
        until = (await self._journal.backlog()).written_until(now)
        await self._end_halted(until)
        await self._count(until)
        async with self._database.read() as connection:
            found = await billing_spans.find_open(
                connection, until=until - self._close_after, limit=BATCH_PERIODS, exclude=quarantined
            )
        closed = 0
        for span, user_id in found:
            try:
                closed += await self._close(span, user_id)
            except FAILURES as error:
                self._quarantine.record_failure(span.subscription_id, error)
            else:
                self._quarantine.record_success(span.subscription_id)
        return closed or await self._bill_late_usage(now)

    async def _close(self, span: BillingSpan, user_id: UUID) -> int:
        async with self._database.transaction() as connection:
            if not await renewals.try_lock(connection, user_id):
                return 0
            issued = await closing.close_period(
                connection, span.subscription_id, start=span.period_start, issuer=self._issuer, now=self._now()
            )
        if issued is not None:
            if not self._issuer.seller.name:
                log.warning("invoice_without_seller", setting="billing.seller.name", invoice_id=str(issued.id))
            log.info("invoice_issued", invoice_id=str(issued.id), number=issued.full_number, total=str(issued.total))
        return 1

    async def _end_halted(self, until: datetime) -> None:
        async with self._database.read() as connection:
            halted = await billing_spans.find_halted(connection, now=until, limit=BATCH_PERIODS)
        for subscription_id in halted:
            async with self._database.transaction() as connection:
                if await _lock(connection, subscription_id):
                    await renewals.end_halted_period(connection, subscription_id, now=until)

    async def _count(self, until: datetime) -> None:
        """Of periods that may outlast the records of their usage (`usage.keep_months`)."""
        async with self._database.read() as connection:
            found = await billing_spans.find_uncounted(connection, since=until - COUNT_INTERVAL, limit=BATCH_PERIODS)
        for subscription_id in found:
            async with self._database.transaction() as connection:
                if await _lock(connection, subscription_id):
                    await renewals.count_usage(connection, subscription_id, now=until)

    async def _bill_late_usage(self, now: datetime) -> int:
        """Of ended subscriptions, which have no next invoice."""
        if self._late_usage_at is not None and now - self._late_usage_at < LATE_USAGE_INTERVAL:
            return 0
        async with self._database.read() as connection:
            found = await billing_spans.find_late_usage(connection, now=now, limit=BATCH_PERIODS)
        for subscription_id in found:
            async with self._database.transaction() as connection:
                if await _lock(connection, subscription_id):
                    await closing.bill_late_usage(connection, subscription_id, issuer=self._issuer, now=now)
        if len(found) < BATCH_PERIODS:
            self._late_usage_at = now
        return len(found)


async def _lock(connection: AsyncConnection, subscription_id: UUID) -> bool:
    return await renewals.try_lock(connection, (await get_existing(connection, subscription_id)).user_id)
