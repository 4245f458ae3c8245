"""Has payment providers end what is over for us, until they have: nobody goes on paying unawares.

That is the subscriptions of deleted accounts, and those that another subscription took over from.
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


class Leaver:
    """For one provider. Several may run: ending twice is ending once."""

    idle_seconds = 60.0

    def __init__(self, database: Database, provider: Provider) -> None:
        self._database = database
        self._provider = provider

    async def run_once(self) -> int:
        """Ends some. Always 0, so that a provider that refuses is not asked without a pause."""
        async with self._database.read() as connection:
            owed = await to_end_at_provider(connection, provider=self._provider.name, limit=BATCH)
        for subscription in owed:
            try:
                await self._end(subscription)
            except ProviderUnavailable as error:
                log.warning("leaving_waits", provider=self._provider.name, reason=str(error))
                return 0
            except FAILURES as error:
                log.error("leaving_refused", subscription_id=str(subscription.id), reason=str(error))
        return 0

    async def _end(self, subscription: StoredSubscription) -> None:
        """Raises what FAILURES names."""
        remote = subscription.provider_subscription_id or ""
        async with self._database.read() as connection:
            fetched_at = await provider_sync.time_of_fetch(connection)
        try:
            await self._cancel(remote)
        except ProviderRefused as refused:
            if not refused.is_missing:
                raise
            await self._note_lost(subscription, fetched_at)
            return
        snapshot = await self._provider.fetch(Subject(About.SUBSCRIPTION, remote))
        async with self._database.transaction() as connection:
            await take(connection, News(self._provider.name, snapshot, fetched_at))

    async def _note_lost(self, subscription: StoredSubscription, fetched_at: datetime) -> None:
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

    async def _cancel(self, remote: str) -> None:
        try:
            await self._provider.cancel(remote, at_period_end=False)
        except ProviderRefused as refused:
            if refused.is_missing:
                raise
            # Lemon Squeezy ends a subscription with its period only; either way nothing more is charged.
            await self._provider.cancel(remote, at_period_end=True)
