"""Polls providers for changes, so that a lost webhook is made up for.

Changes go into the inbox of webhook events, which drops those that arrived before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog

from gateway import clock
from gateway.ledger.db.session import Database
from gateway.ledger.payments import provider_sync, webhook_events
from gateway.payments.provider import ChangeEvent, Provider, ProviderRefused, ProviderUnavailable

# A poll starts this long before the start of the last one: clocks differ, and events are listed with a delay.
OVERLAP = timedelta(minutes=10)
PAUSE_AFTER_FAILURE = timedelta(minutes=1)

log = structlog.get_logger(__name__)


class ProviderPoller:
    """Reads one provider's changes page by page, at most once per `interval`.

    Several may run: they share a cursor in the database.
    """

    # The pause between pages.
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
        self._paused_until: datetime | None = None

    async def run_once(self) -> int:
        """Reads one page if a poll is due or unfinished. Returns 0, so that a pause follows."""
        if self._paused_until is not None and self._now() < self._paused_until:
            return 0
        async with self._database.transaction() as connection:
            position = await provider_sync.get_cursor_for_update(connection, self._cursor)
        if position.get("page") is None and not position.get("is_broken_off"):
            if position and self._now() - datetime.fromisoformat(position["began"]) < self._interval:
                return 0
            position = self._start_after(position)
        # Set before the request, so that any failure causes the pause.
        self._paused_until = self._now() + PAUSE_AFTER_FAILURE
        if await self._read_page(position):
            self._paused_until = None
        return 0

    def _start_after(self, last: Any) -> dict[str, Any]:
        now = self._now()
        since = (
            datetime.fromisoformat(last["began"]) - OVERLAP if last else now - self._provider.traits.changes_kept_for
        )
        return {"since": since.isoformat(), "began": now.isoformat(), "page": None}

    async def _read_page(self, position: Any) -> bool:
        """Whether the provider answered."""
        try:
            changes = await self._provider.changed_since(
                datetime.fromisoformat(position["since"]), page=position["page"]
            )
        except (ProviderUnavailable, ProviderRefused) as error:
            log.warning("provider_poll_failed", provider=self._provider.name, reason=str(error))
            if isinstance(error, ProviderRefused) and position["page"] is not None:
                await self._restart(position)
            return False
        for reason in changes.unreadable:
            log.warning("provider_poll_skipped_object", provider=self._provider.name, reason=reason)
        async with self._database.transaction() as connection:
            for change in _relevant(changes.changes):
                await webhook_events.record(
                    connection,
                    self._provider.name,
                    provider_event_id=change.event.id,
                    event_type=change.event.type,
                    payload=change.payload,
                    occurred_at=change.event.occurred_at,
                )
            await provider_sync.move_cursor(connection, self._cursor, position=_at_page(position, changes.next_page))
        return True

    async def _restart(self, position: Any) -> None:
        """Starts the poll again: the provider may have deleted the event that its page token names."""
        async with self._database.transaction() as connection:
            await provider_sync.move_cursor(
                connection, self._cursor, position=_at_page(position, None) | {"is_broken_off": True}
            )


def _relevant(changes: Iterable[ChangeEvent]) -> list[ChangeEvent]:
    """Oldest first. Unrelated events would fill the inbox with the account's customers elsewhere."""
    found = [each for each in changes if each.event.subject is not None and each.event.unrelated_reason is None]
    return found[::-1]


def _at_page(position: Any, page: str | None) -> dict[str, Any]:
    return {"since": position["since"], "began": position["began"], "page": page}
