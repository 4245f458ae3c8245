"""Asks providers what has changed, so that a webhook that never came is missed by nobody.

What it hears goes into the inbox and is acted on like a webhook: one that did come is known there already.
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

# A walk begins this long before the last one did: clocks differ, and events are listed a little after they happen.
OVERLAP = timedelta(minutes=10)
# As far back as Stripe can be asked (https://docs.stripe.com/api/events/list), less a day.
FIRST_WALK = timedelta(days=29)
# A provider that is down is not helped by being asked every second.
PAUSE_AFTER_FAILURE = timedelta(minutes=1)

log = structlog.get_logger(__name__)


class BillingPoller:
    """Walks through one provider's changes, a page at a time, and rests between walks.

    Several may run: of those that read the same page, one moves on.
    """

    # Between two pages: a sixtieth of what the stricter provider allows.
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
        self._walk = f"changes:{provider.name}"
        self._resting_until: datetime | None = None

    async def run_once(self) -> int:
        """Reads one page if a walk is due or under way. Always 0, so that a pause follows."""
        if self._resting_until is not None and self._now() < self._resting_until:
            return 0
        async with self._database.transaction() as connection:
            at = await provider_sync.position(connection, self._walk)
        if at.get("page") is None and not at.get("is_broken_off"):
            if at and self._now() - datetime.fromisoformat(at["began"]) < self._interval:
                return 0
            at = self._setting_out(at)
        # Until a page has been read, whatever keeps it from being.
        self._resting_until = self._now() + PAUSE_AFTER_FAILURE
        if await self._read_page(at):
            self._resting_until = None
        return 0

    def _setting_out(self, last: Any) -> dict[str, Any]:
        now = self._now()
        since = datetime.fromisoformat(last["began"]) - OVERLAP if last else now - FIRST_WALK
        return {"since": since.isoformat(), "began": now.isoformat(), "page": None}

    async def _read_page(self, at: Any) -> bool:
        """Whether there was an answer."""
        try:
            changes = await self._provider.changed_since(datetime.fromisoformat(at["since"]), page=at["page"])
        except (ProviderUnavailable, ProviderRefused) as error:
            log.warning("billing_poll_failed", provider=self._provider.name, reason=str(error))
            if isinstance(error, ProviderRefused) and at["page"] is not None:
                await self._break_off(at)
            return False
        for reason in changes.unread:
            log.warning("billing_poll_skipped", provider=self._provider.name, reason=reason)
        async with self._database.transaction() as connection:
            for report in _worth_keeping(changes.reports):
                await webhook_events.receive(
                    connection,
                    self._provider.name,
                    provider_event_id=report.event.id,
                    event_type=report.event.type,
                    payload=report.payload,
                    occurred_at=report.event.occurred_at,
                )
            await provider_sync.move(connection, self._walk, position=_position(at, page=changes.next_page))
        return True

    async def _break_off(self, at: Any) -> None:
        """The walk begins again: its page may be named by an event that the provider has forgotten."""
        async with self._database.transaction() as connection:
            await provider_sync.move(
                connection, self._walk, position=_position(at, page=None) | {"is_broken_off": True}
            )


def _worth_keeping(reports: Iterable[Report]) -> list[Report]:
    """The oldest first. What is not for us would fill the inbox with every customer the account has elsewhere."""
    ours = [report for report in reports if report.event.subject is not None and report.event.foreign is None]
    return ours[::-1]


def _position(at: Any, *, page: str | None) -> dict[str, Any]:
    return {"since": at["since"], "began": at["began"], "page": page}
