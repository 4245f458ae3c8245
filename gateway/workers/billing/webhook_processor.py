"""Acts on what providers told: asks for the object as it is now, takes that, and ends the event, in one transaction.

A crash anywhere leaves the event as it was, with no effect of it, and it is due again. Events wait for nothing but
their turn: since each one fetches, whichever is last has the last word.
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

NOT_OURS = "nothing of this gateway's"
NOTHING_TO_DO = "changes nothing here"

# What keeps an event from being acted on; all of it may be otherwise later, so all of it is tried again.
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
    # An object in a shape that nobody has seen yet.
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    # A value that no column holds.
    DBAPIError,
)

log = structlog.get_logger(__name__)


class WebhookProcessor:
    """Any number may run, in the public processes and in the worker; an event is in one hand at a time."""

    idle_seconds = 1.0

    def __init__(self, database: Database, providers: Mapping[str, Provider]) -> None:
        self._database = database
        self._providers = providers

    async def run_once(self) -> int:
        """Acts on the event that has been due for longest; gives 0 where there is none."""
        return await self._act(None)

    async def process(self, event_id: UUID) -> None:
        """Acts on this event now, if nobody else does. What fails will be tried again by `run_once`."""
        try:
            await self._act(event_id)
        except DatabaseUnavailable as error:
            log.warning("webhook_event_waits", event_id=str(event_id), reason=str(error))

    async def _act(self, event_id: UUID | None) -> int:
        async with self._database.transaction() as connection:
            event = await webhook_events.claim(connection, event_id=event_id)
        if event is None:
            return 0
        try:
            result = await self._take(event)
        except FAILURES as error:
            result = "failed"
            log.warning("webhook_event_failed", event_id=str(event.id), type=event.event_type, reason=str(error))
            async with self._database.transaction() as connection:
                await webhook_events.failed(connection, event, reason=f"{type(error).__name__}: {error}")
        metrics.WEBHOOK_EVENTS.labels(event.provider, event.event_type, result).inc()
        return 1

    async def _take(self, event: WebhookEvent) -> str:
        provider = self._providers.get(event.provider)
        if provider is None:
            raise ProviderUnavailable(f"{event.provider} is not configured")
        told = provider.parse(event.payload, digest="")
        if told.subject is None or told.foreign is not None:
            async with self._database.transaction() as connection:
                await webhook_events.done(connection, event.id, ignored=told.foreign or NOTHING_TO_DO)
            return "ignored"
        news = await self._ask(provider, told)
        async with self._database.transaction() as connection:
            is_ours = await take(connection, news)
            await webhook_events.done(connection, event.id, ignored=None if is_ours else NOT_OURS)
        return "processed" if is_ours else "ignored"

    async def _ask(self, provider: Provider, told: Event) -> News:
        assert told.subject is not None  # noqa: S101 - for the type checker: its only caller has looked
        async with self._database.read() as connection:
            fetched_at = await provider_sync.time_of_fetch(connection)
        snapshot = await provider.fetch(told.subject)
        return News(provider.name, snapshot, fetched_at, reference=told.reference)
