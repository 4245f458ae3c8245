"""Pauses at their provider the payments of suspended accounts, and resumes them once the account is reactivated.

Nobody is charged for what is refused meanwhile: the provider voids what falls due. A pause that the seller made at the
provider is left alone.
"""

from __future__ import annotations

import structlog

from gateway.ledger.db.session import Database
from gateway.ledger.payments.provider_subscriptions import list_to_pause, record_pause
from gateway.ledger.subscriptions.subscriptions import StoredSubscription
from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable

BATCH = 20

log = structlog.get_logger(__name__)


class PaymentPauseWorker:
    """For one provider. Several may run, since pausing and resuming are idempotent."""

    idle_seconds = 60.0

    def __init__(self, database: Database, provider: Provider) -> None:
        self._database = database
        self._provider = provider

    async def run_once(self) -> int:
        """Handles a batch. Returns 0, so that a pause follows even where the provider refuses."""
        async with self._database.read() as connection:
            due = await list_to_pause(connection, provider=self._provider.name, limit=BATCH)
        for subscription, pauses in due:
            try:
                await self._apply(subscription, pauses=pauses)
            except ProviderUnavailable as error:
                log.warning("payment_pause_deferred", provider=self._provider.name, reason=str(error))
                return 0
            except ProviderRefused as error:
                log.error("payment_pause_failed", subscription_id=str(subscription.id), reason=str(error))
        return 0

    async def _apply(self, subscription: StoredSubscription, *, pauses: bool) -> None:
        remote_id = subscription.provider_subscription_id or ""
        try:
            if pauses:
                await self._provider.pause_payments(remote_id)
                log.info("payments_paused", subscription_id=str(subscription.id))
            else:
                await self._provider.resume_payments(remote_id)
                log.info("payments_resumed", subscription_id=str(subscription.id))
        except ProviderRefused as refused:
            if not refused.is_missing:  # where there is none nobody is charged
                raise
        async with self._database.transaction() as connection:
            await record_pause(connection, subscription.id, is_paused=pauses)
