"""Reports usage to a provider that bills by it, for plans priced by usage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.payments import usage_reports
from gateway.ledger.payments.usage_reports import UsageReport
from gateway.payments.provider import CredentialsRejected, MeteredProvider, ProviderRefused
from policies.billing.providers import MeteredUsage

# Most usage is recorded within seconds. A full scan of all days that the provider accepts finds the rest.
RECENT = timedelta(days=1)
FULL_SCAN_INTERVAL = timedelta(hours=6)

log = structlog.get_logger(__name__)


class UsageReportSender:
    """Several may run: each report is sent by one of them. `provider.traits.metered_usage` must be set."""

    idle_seconds = 60.0

    def __init__(
        self,
        database: Database,
        provider: MeteredProvider,
        *,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._database = database
        self._provider = provider
        self._limits = provider.traits.metered_usage or MeteredUsage(
            accepted_for=timedelta(), deduplicated_for=timedelta()
        )
        self._now = now
        self._full_scan_at: datetime | None = None

    async def run_once(self) -> int:
        """Sends the oldest report; without one, creates those that are due. Returns how many it sent or created."""
        return await self._send_one() or await self._create_due()

    async def _create_due(self) -> int:
        now = self._now()
        is_full = self._full_scan_at is None or now - self._full_scan_at >= FULL_SCAN_INTERVAL
        since = (now - (self._limits.accepted_for if is_full else RECENT)).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        async with self._database.transaction() as connection:
            created = await usage_reports.create_due(connection, self._provider.name, since=since, until=now)
        if is_full:
            self._full_scan_at = now
        return created

    async def _send_one(self) -> int:
        async with self._database.transaction() as connection:
            report = await usage_reports.start_next(connection, self._provider.name)
            if report is None:
                return 0
            customer_id = await usage_reports.find_customer(connection, report)
        try:
            error = await self._send(report, customer_id)
        except CredentialsRejected:
            # The report is sent once the key is replaced, however long that takes.
            async with self._database.transaction() as connection:
                await usage_reports.undo_start(connection, report)
            raise
        if error is not None:
            log.error("usage_report_refused", identifier=report.identifier, reason=error)
        async with self._database.transaction() as connection:
            await usage_reports.complete(connection, report, error=error)
        return 1

    async def _send(self, report: UsageReport, customer_id: str | None) -> str | None:
        """Returns why the report failed for good, or None once it is confirmed.

        Raises ProviderUnavailable where the provider may or may not have counted it.
        """
        if customer_id is None:
            return "its account has no customer at the provider"
        if report.attempted_at is not None and self._now() - report.attempted_at > self._limits.deduplicated_for:
            return "sent a day ago without confirmation: look it up at the provider by its identifier"
        try:
            await self._provider.report_usage(
                identifier=report.identifier,
                customer_id=customer_id,
                value=report.credits_used,
                at=report.used_at,
            )
        except ProviderRefused as refused:
            return str(refused)
        return None
