"""Reports usage to Stripe, for plans with usage pricing.

https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api: an identifier counts once within a day or
more, and usage may be reported up to 35 days later.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.payments import usage_reports
from gateway.ledger.payments.usage_reports import UsageReport
from gateway.payments.provider import KeyRefused, MeterEvents, ProviderRefused

# Whole days, a day less than Stripe takes.
LOOK_BACK = timedelta(days=33)
# Most rows are written within seconds; a look at all days takes the stragglers.
RECENT = timedelta(days=1)
LONG_LOOK_INTERVAL = timedelta(hours=6)
# Past it Stripe may have forgotten the identifier, and would count again what it has counted.
REMEMBERED = timedelta(hours=23)

log = structlog.get_logger(__name__)


class UsageReportSender:
    """Any number may run; one at a time has a report."""

    idle_seconds = 60.0

    def __init__(
        self,
        database: Database,
        provider: MeterEvents,
        *,
        provider_name: str,
        event_name: str,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._database = database
        self._provider = provider
        self._provider_name = provider_name
        self._event_name = event_name
        self._now = now
        self._long_look_at: datetime | None = None

    async def run_once(self) -> int:
        """Sends the oldest report, or records reports that are due. Gives how many it sent or recorded."""
        return await self._send_one() or await self._record_due()

    async def _record_due(self) -> int:
        now = self._now()
        is_long = self._long_look_at is None or now - self._long_look_at >= LONG_LOOK_INTERVAL
        since = (now - (LOOK_BACK if is_long else RECENT)).replace(hour=0, minute=0, second=0, microsecond=0)
        async with self._database.transaction() as connection:
            written = await usage_reports.write_down(connection, self._provider_name, since=since, until=now)
        if is_long:
            self._long_look_at = now
        return written

    async def _send_one(self) -> int:
        async with self._database.transaction() as connection:
            report = await usage_reports.next_unsent(connection)
            if report is None:
                return 0
            customer_id = await usage_reports.customer_of(connection, report)
        try:
            error = await self._send(report, customer_id)
        except KeyRefused:
            # The report stays pending until somebody corrects the key.
            async with self._database.transaction() as connection:
                await usage_reports.not_sent(connection, report)
            raise
        if error is not None:
            log.error("usage_report_refused", identifier=report.identifier, reason=error)
        async with self._database.transaction() as connection:
            await usage_reports.arrived(connection, report, error=error)
        return 1

    async def _send(self, report: UsageReport, customer_id: str | None) -> str | None:
        """Why it never will arrive, None where it has. Raises ProviderUnavailable: it may have."""
        if customer_id is None:
            return "its account has no customer at the provider"
        if report.attempted_at is not None and self._now() - report.attempted_at > REMEMBERED:
            return "sent a day ago, and whether it arrived is not known: look it up by its identifier"
        try:
            await self._provider.report_usage(
                self._event_name,
                identifier=report.identifier,
                customer_id=customer_id,
                value=report.credits_used,
                at=report.used_at,
            )
        except ProviderRefused as refused:
            return str(refused)
        return None
