"""Cancels subscriptions at their provider that have ended here, so that nobody is charged for them.

These are the subscriptions of deleted accounts, and those that another subscription superseded.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

import structlog

from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync
from gateway.ledger.payments.provider_subscriptions import list_to_cancel, sync_from_provider
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable
from gateway.workers.billing.webhook_processor import FAILURES
from policies.billing.payments import ObjectKind, ObjectRef
from policies.model import SubscriptionStatus

BATCH = 20

log = structlog.get_logger(__name__)


class ProviderCancellationWorker:
    """For one provider. Several may run, since cancelling is idempotent."""

    idle_seconds = 60.0

    def __init__(self, database: Database, provider: Provider) -> None:
        self._database = database
        self._provider = provider

    async def run_once(self) -> int:
        """Cancels a batch. Returns 0, so that a pause follows even where the provider refuses."""
        async with self._database.read() as connection:
            pending = await list_to_cancel(connection, provider=self._provider.name, limit=BATCH)
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
        """Raises what FAILURES names."""
        remote_id = subscription.provider_subscription_id or ""
        async with self._database.read() as connection:
            asked_at = await provider_sync.database_time(connection)
        try:
            await self._provider.cancel(remote_id, at_period_end=not self._provider.traits.cancels_immediately)
        except ProviderRefused as refused:
            if not refused.is_missing:
                raise
            await self._record_missing(subscription, asked_at)
            return
        fetch = partial(self._provider.fetch, ObjectRef(ObjectKind.SUBSCRIPTION, remote_id))
        update = await fetch_update(self._database, self._provider, fetch)
        async with self._database.transaction() as connection:
            await apply_update(connection, update)

    async def _record_missing(self, subscription: StoredSubscription, asked_at: datetime) -> None:
        async with self._database.transaction() as connection:
            await sync_from_provider(
                connection,
                subscription.id,
                status=SubscriptionStatus.CANCELED,
                period_start=subscription.current_period_start,
                period_end=subscription.current_period_end,
                cancel_at_period_end=False,
                quantity=subscription.quantity,
                now=asked_at,
                actor=f"provider:{self._provider.name}",
            )
