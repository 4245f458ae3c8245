"""Cancels subscriptions at the payment provider that have ended here, until the provider confirms it.

These are the subscriptions of deleted accounts and those that another subscription superseded.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync
from gateway.ledger.payments.provider_subscriptions import sync_from_provider, to_end_at_provider
from gateway.ledger.payments.provider_updates import News, take
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable
from gateway.workers.billing.webhook_processor import FAILURES
from policies.billing.payments import About, Subject
from policies.model import SubscriptionStatus

BATCH = 20

log = structlog.get_logger(__name__)


class ProviderCancellationWorker:
    """For one provider. Several may run: a second cancellation changes nothing."""

    idle_seconds = 60.0

    def __init__(self, database: Database, provider: Provider) -> None:
        self._database = database
        self._provider = provider

    async def run_once(self) -> int:
        """Cancels one batch. Always 0, so that a pause follows even if the provider refuses."""
        async with self._database.read() as connection:
            pending = await to_end_at_provider(connection, provider=self._provider.name, limit=BATCH)
        for subscription in pending:
            try:
                await self._cancel(subscription)
            except ProviderUnavailable as error:
                log.warning("provider_cancellation_deferred", provider=self._provider.name, reason=str(error))
                return 0
            except FAILURES as error:
                log.error("provider_cancellation_failed", subscription_id=str(subscription.id), reason=str(error))
        return 0

    async def _cancel(self, subscription: StoredSubscription) -> None:
        """Raises the exceptions in FAILURES."""
        remote = subscription.provider_subscription_id or ""
        async with self._database.read() as connection:
            fetched_at = await provider_sync.time_of_fetch(connection)
        try:
            await self._cancel_at_provider(remote)
        except ProviderRefused as refused:
            if not refused.is_missing:
                raise
            await self._mark_canceled(subscription, fetched_at)
            return
        snapshot = await self._provider.fetch(Subject(About.SUBSCRIPTION, remote))
        async with self._database.transaction() as connection:
            await take(connection, News(self._provider.name, snapshot, fetched_at))

    async def _mark_canceled(self, subscription: StoredSubscription, fetched_at: datetime) -> None:
        async with self._database.transaction() as connection:
            await sync_from_provider(
                connection,
                subscription.id,
                status=SubscriptionStatus.CANCELED,
                period_start=subscription.current_period_start,
                period_end=subscription.current_period_end,
                cancel_at_period_end=False,
                quantity=subscription.quantity,
                now=fetched_at,
                actor=f"provider:{self._provider.name}",
            )

    async def _cancel_at_provider(self, remote: str) -> None:
        try:
            await self._provider.cancel(remote, at_period_end=False)
        except ProviderRefused as refused:
            if refused.is_missing:
                raise
            # Lemon Squeezy cancels at the period's end only; it charges nothing more either way.
            await self._provider.cancel(remote, at_period_end=True)
