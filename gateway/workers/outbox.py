"""Publishes committed changes to Redis: new versions, and movements of credits.

An entry is deleted in the transaction that read it, after Redis applied it. A crash in between publishes it once more,
and Redis ignores the repetition. Until an entry is published, Redis admits calls on the state before it.

Entries come in order, so a gap means that Redis lost a change it had applied. The publisher then unloads the account;
its next call loads it from PostgreSQL, the journal and its holds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import outbox
from gateway.ledger.db.outbox import OutboxEntry
from gateway.ledger.db.session import Database
from gateway.meter.meter import Meter
from gateway.meter.replies import CreditChangeResult

log = structlog.get_logger(__name__)

LockEntries = Callable[[AsyncConnection], Awaitable[Sequence[OutboxEntry]]]


class OutboxPublisher:
    """Any number may run; one publisher at a time has an account's entries."""

    idle_seconds = 0.5

    def __init__(self, database: Database, meter: Meter) -> None:
        self._database = database
        self._meter = meter

    async def run_once(self) -> int:
        """Publishes one batch, oldest entries first; gives how many entries Redis applied."""
        return await self._drain(outbox.lock_pending)

    async def publish(self, user_id: UUID) -> int:
        """Publishes one account's entries right after their commit; `run_once` publishes what this one misses.

        Raises MeterUnavailable, DatabaseUnavailable; the change stands, and will be published.
        """
        return await self._drain(lambda connection: outbox.lock_pending_for(connection, user_id))

    async def publish_all(self) -> None:
        """Returns once everything that was committed before is published, by this or another publisher.

        Raises MeterUnavailable, DatabaseUnavailable; the changes stand, and will be published.
        """
        while await self._drain(outbox.lock_all):
            pass

    async def _drain(self, lock_entries: LockEntries) -> int:
        async with self._database.transaction() as connection:
            entries = await lock_entries(connection)
            publishing = (self._apply_in_order(group) for group in _by_account(entries))
            results = await asyncio.gather(*publishing, return_exceptions=True)
            published = [entry_id for ids in results if not isinstance(ids, BaseException) for entry_id in ids]
            if published:
                await outbox.delete_published(connection, published)
        for result in results:
            if isinstance(result, BaseException):
                raise result  # after the commit: the accounts that succeeded stay published
        return len(published)

    async def _apply_in_order(self, entries: Sequence[OutboxEntry]) -> list[int]:
        for entry in entries:
            await self._apply(entry)
        return [entry.id for entry in entries]

    async def _apply(self, entry: OutboxEntry) -> None:
        if entry.user_id is None:
            await self._meter.raise_catalogue_version(entry.payload["version"])
            return
        keys = self._meter.keys(entry.user_id)
        if entry.kind == "account":
            await self._meter.raise_account_version(keys, entry.payload["version"])
            return
        change = entry.payload
        applied = await self._meter.apply_credits(keys, credit_seq=change["credit_seq"], amount=change["amount"])
        if applied is CreditChangeResult.SEQUENCE_GAP:
            log.error("credit_sequence_gap", user_id=str(entry.user_id), **change)
            await self._meter.unload(keys)
            await self._meter.apply_credits(keys, credit_seq=change["credit_seq"], amount=change["amount"])


def _by_account(entries: Iterable[OutboxEntry]) -> Iterable[Sequence[OutboxEntry]]:
    groups: defaultdict[UUID | None, list[OutboxEntry]] = defaultdict(list)
    for entry in entries:
        groups[entry.user_id].append(entry)
    return groups.values()
