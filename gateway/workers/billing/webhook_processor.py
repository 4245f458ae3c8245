"""Processes provider events: fetches the object of each, then applies it and completes the event in one transaction.

A crash leaves the event without effects, and due again. Events may be processed in any order, since each fetches the
present state.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from gateway import metrics
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.payments import webhook_events
from gateway.ledger.payments.own_parts import ProviderMismatch
from gateway.ledger.payments.provider_updates import apply_update, fetch_update
from gateway.ledger.payments.webhook_events import WebhookEvent
from gateway.ledger.subscriptions.subscriptions import IllegalTransition
from gateway.payments.provider import InvalidWebhook, Provider, ProviderRefused, ProviderUnavailable

UNKNOWN_OBJECT = "concerns no account of this gateway"
NO_EFFECT = "has no effect here"

# All of these may pass, so a failed event is tried again.
FAILURES = (
    ProviderUnavailable,
    ProviderRefused,
    InvalidWebhook,
    ProviderMismatch,
    IllegalTransition,
    AlreadyExists,
    InUse,
    InvalidValue,
    NotFound,
    # A malformed object.
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    # A value out of its column's range.
    DBAPIError,
)

log = structlog.get_logger(__name__)


class WebhookProcessor:
    """Several may run, in the public processes and in the worker: each event is processed by one of them."""

    idle_seconds = 1.0

    def __init__(self, database: Database, providers: Mapping[str, Provider]) -> None:
        self._database = database
        self._providers = providers

    async def run_once(self) -> int:
        """Processes the event that has been due for longest; returns 0 where none is due."""
        return await self._process(None)

    async def process(self, event_id: UUID) -> None:
        """Processes this event now unless another worker does. `run_once` repeats what fails."""
        try:
            await self._process(event_id)
        except DatabaseUnavailable as error:
            log.warning("webhook_event_deferred", event_id=str(event_id), reason=str(error))

    async def _process(self, event_id: UUID | None) -> int:
        async with self._database.transaction() as connection:
            event = await webhook_events.lease(connection, event_id=event_id)
        if event is None:
            return 0
        try:
            result = await self._apply(event)
        except FAILURES as error:
            result = "failed"
            log.warning("webhook_event_failed", event_id=str(event.id), type=event.event_type, reason=str(error))
            async with self._database.transaction() as connection:
                await webhook_events.fail(connection, event, reason=f"{type(error).__name__}: {error}")
        metrics.WEBHOOK_EVENTS.labels(event.provider, self._label(event), result).inc()
        return 1

    def _label(self, event: WebhookEvent) -> str:
        """Providers have types of events without number, of which the gateway knows some."""
        provider = self._providers.get(event.provider)
        is_known = provider is not None and event.event_type in provider.traits.event_types
        return event.event_type if is_known else metrics.OTHER

    async def _apply(self, stored: WebhookEvent) -> str:
        provider = self._providers.get(stored.provider)
        if provider is None:
            raise ProviderUnavailable(f"{stored.provider} is not configured")
        event = provider.parse(stored.payload, digest="")
        if event.subject is None or event.unrelated_reason is not None:
            async with self._database.transaction() as connection:
                await webhook_events.complete(connection, stored.id, ignored=event.unrelated_reason or NO_EFFECT)
            return "ignored"
        fetch = partial(provider.fetch, event.subject)
        update = await fetch_update(self._database, provider, fetch, reference=event.reference)
        async with self._database.transaction() as connection:
            is_known = await apply_update(connection, update)
            await webhook_events.complete(connection, stored.id, ignored=None if is_known else UNKNOWN_OBJECT)
        return "processed" if is_known else "ignored"
