"""Has payment providers end the subscriptions of deleted accounts, until they have: nobody goes on paying unawares."""

from __future__ import annotations

import structlog

from gateway.billing.provider import Provider, ProviderRefused, ProviderUnavailable
from gateway.ledger import billing, erasure, subscriptions
from gateway.ledger.contracts import StoredSubscription
from gateway.ledger.provider_news import News, take
from gateway.ledger.session import Database
from gateway.workers.webhooks import FAILURES
from policies.payments import About, Subject

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
            owed = await erasure.still_billed(connection, provider=self._provider.name, limit=BATCH)
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
            fetched_at = await billing.time_of_fetch(connection)
        try:
            await self._cancel(remote)
        except ProviderRefused as refused:
            if not refused.is_missing:
                raise
            async with self._database.transaction() as connection:
                await subscriptions.cancel(connection, subscription.id, now=fetched_at, at_period_end=False)
            return
        snapshot = await self._provider.fetch(Subject(About.SUBSCRIPTION, remote))
        async with self._database.transaction() as connection:
            await take(connection, News(self._provider.name, snapshot, fetched_at))

    async def _cancel(self, remote: str) -> None:
        try:
            await self._provider.cancel(remote, at_period_end=False)
        except ProviderRefused as refused:
            if refused.is_missing:
                raise
            # Lemon Squeezy ends a subscription with its period only; either way nothing more is charged.
            await self._provider.cancel(remote, at_period_end=True)
