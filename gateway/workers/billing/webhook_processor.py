"""Processes webhook events: fetches the provider's current object, applies it, and marks the event, in one transaction.

A crash leaves the event pending without effect. The order of events does not matter, since each one fetches the
current object.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from gateway import metrics
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.payments import provider_sync, webhook_events
from gateway.ledger.payments.provider_updates import Mismatch, News, take
from gateway.ledger.payments.webhook_events import WebhookEvent
from gateway.ledger.subscriptions.subscriptions import IllegalTransition
from gateway.payments.provider import InvalidWebhook, Provider, ProviderRefused, ProviderUnavailable
from policies.billing.payments import Event

UNRELATED = "nothing of this gateway's"
NO_CHANGE = "changes nothing here"

# What can keep an event from being applied. All of it may pass, so all of it is retried.
FAILURES = (
    ProviderUnavailable,
    ProviderRefused,
    InvalidWebhook,
    Mismatch,
    IllegalTransition,
    AlreadyExists,
    InUse,
    InvalidValue,
    NotFound,
    # An object of an unknown shape.
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    # A value that no column accepts.
    DBAPIError,
)

log = structlog.get_logger(__name__)


class WebhookProcessor:
    """Any number may run, in the public processes and in the worker; one at a time has an event."""

    idle_seconds = 1.0

    def __init__(self, database: Database, providers: Mapping[str, Provider]) -> None:
        self._database = database
        self._providers = providers

    async def run_once(self) -> int:
        """Processes the event that has been due for longest; gives 0 if none is due."""
        return await self._process(None)

    async def process(self, event_id: UUID) -> None:
        """Processes this event now unless another process does; `run_once` retries failures."""
        try:
            await self._process(event_id)
        except DatabaseUnavailable as error:
            log.warning("webhook_event_deferred", event_id=str(event_id), reason=str(error))

    async def _process(self, event_id: UUID | None) -> int:
        async with self._database.transaction() as connection:
            event = await webhook_events.claim(connection, event_id=event_id)
        if event is None:
            return 0
        try:
            result = await self._apply(event)
        except FAILURES as error:
            result = "failed"
            log.warning("webhook_event_failed", event_id=str(event.id), type=event.event_type, reason=str(error))
            async with self._database.transaction() as connection:
                await webhook_events.failed(connection, event, reason=f"{type(error).__name__}: {error}")
        metrics.WEBHOOK_EVENTS.labels(event.provider, event.event_type, result).inc()
        return 1

    async def _apply(self, event: WebhookEvent) -> str:
        provider = self._providers.get(event.provider)
        if provider is None:
            raise ProviderUnavailable(f"{event.provider} is not configured")
        received = provider.parse(event.payload, digest="")
        if received.subject is None or received.foreign is not None:
            async with self._database.transaction() as connection:
                await webhook_events.done(connection, event.id, ignored=received.foreign or NO_CHANGE)
            return "ignored"
        news = await self._fetch(provider, received)
        async with self._database.transaction() as connection:
            is_ours = await take(connection, news)
            await webhook_events.done(connection, event.id, ignored=None if is_ours else UNRELATED)
        return "processed" if is_ours else "ignored"

    async def _fetch(self, provider: Provider, received: Event) -> News:
        assert received.subject is not None  # noqa: S101 - for the type checker: its only caller has looked
        async with self._database.read() as connection:
            fetched_at = await provider_sync.time_of_fetch(connection)
        snapshot = await provider.fetch(received.subject)
        return News(provider.name, snapshot, fetched_at, reference=received.reference)
