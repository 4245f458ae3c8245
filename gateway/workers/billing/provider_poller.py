"""Polls providers for changes, in case a webhook never arrived.

Events go into the same inbox as webhooks; an event that did arrive is a duplicate there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync, webhook_events
from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable, Report

# A poll starts this long before the last one did: clocks differ, and providers list events a little late.
OVERLAP = timedelta(minutes=10)
# Stripe lists the last 30 days (https://docs.stripe.com/api/events/list); a day less.
FIRST_POLL = timedelta(days=29)
# Against hammering a provider that is down.
PAUSE_AFTER_FAILURE = timedelta(minutes=1)

log = structlog.get_logger(__name__)


class ProviderPoller:
    """Reads one provider's changes, a page per run, and rests after the last page.

    Several may run: of those that read the same page, one advances the cursor.
    """

    # Between two pages: one request a second is a sixtieth of the stricter provider's limit.
    idle_seconds = 1.0

    def __init__(
        self,
        database: Database,
        provider: Provider,
        *,
        interval: timedelta,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._database = database
        self._provider = provider
        self._interval = interval
        self._now = now
        self._cursor = f"changes:{provider.name}"
        self._resting_until: datetime | None = None

    async def run_once(self) -> int:
        """Reads one page if a poll is due or under way. Always 0, so that a pause follows."""
        if self._resting_until is not None and self._now() < self._resting_until:
            return 0
        async with self._database.transaction() as connection:
            at = await provider_sync.position(connection, self._cursor)
        if at.get("page") is None and not at.get("is_broken_off"):
            if at and self._now() - datetime.fromisoformat(at["began"]) < self._interval:
                return 0
            at = self._start(at)
        # Cleared once the page is read, so that every failure is followed by a pause.
        self._resting_until = self._now() + PAUSE_AFTER_FAILURE
        if await self._read_page(at):
            self._resting_until = None
        return 0

    def _start(self, last: Any) -> dict[str, Any]:
        now = self._now()
        since = datetime.fromisoformat(last["began"]) - OVERLAP if last else now - FIRST_POLL
        return {"since": since.isoformat(), "began": now.isoformat(), "page": None}

    async def _read_page(self, at: Any) -> bool:
        """Whether the provider answered."""
        try:
            changes = await self._provider.changed_since(datetime.fromisoformat(at["since"]), page=at["page"])
        except (ProviderUnavailable, ProviderRefused) as error:
            log.warning("billing_poll_failed", provider=self._provider.name, reason=str(error))
            if isinstance(error, ProviderRefused) and at["page"] is not None:
                await self._restart(at)
            return False
        for reason in changes.unread:
            log.warning("billing_poll_skipped", provider=self._provider.name, reason=reason)
        async with self._database.transaction() as connection:
            for report in _relevant(changes.reports):
                await webhook_events.receive(
                    connection,
                    self._provider.name,
                    provider_event_id=report.event.id,
                    event_type=report.event.type,
                    payload=report.payload,
                    occurred_at=report.event.occurred_at,
                )
            await provider_sync.move(connection, self._cursor, position=_position(at, page=changes.next_page))
        return True

    async def _restart(self, at: Any) -> None:
        """Starts from the first page: the page token may name an event that the provider no longer has."""
        async with self._database.transaction() as connection:
            await provider_sync.move(
                connection, self._cursor, position=_position(at, page=None) | {"is_broken_off": True}
            )


def _relevant(reports: Iterable[Report]) -> list[Report]:
    """The oldest first. Drops events of customers that the provider account serves elsewhere."""
    ours = [report for report in reports if report.event.subject is not None and report.event.foreign is None]
    return ours[::-1]


def _position(at: Any, *, page: str | None) -> dict[str, Any]:
    return {"since": at["since"], "began": at["began"], "page": page}
