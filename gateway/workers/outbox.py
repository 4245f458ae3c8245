"""Tells Redis what PostgreSQL has committed: versions that moved, credits that were given or taken.

An entry is deleted in the transaction that read it, after Redis took it. A crash between the two tells it again, and
Redis knows a repetition. Until Redis has taken an entry, its account goes on under what Redis knew before.

Entries come in order, so a gap means that Redis has lost what it had taken. The account is made cold, and its next call
loads it from PostgreSQL, the journal and its holds.
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
from gateway.meter.meter import Applied, Meter

log = structlog.get_logger(__name__)

Drain = Callable[[AsyncConnection], Awaitable[Sequence[OutboxEntry]]]


class OutboxPublisher:
    """Any number may run; an account's entries are in one hand at a time, in order."""

    idle_seconds = 0.5

    def __init__(self, database: Database, meter: Meter) -> None:
        self._database = database
        self._meter = meter

    async def run_once(self) -> int:
        """Tells what waits, oldest first; gives how many entries Redis took."""
        return await self._drain(outbox.pending)

    async def publish(self, user_id: UUID) -> int:
        """Tells one account's entries, for who has just committed them. What it misses, `run_once` will tell.

        Raises MeterUnavailable, DatabaseUnavailable: the change stands, and will be told.
        """
        return await self._drain(lambda connection: outbox.pending_for(connection, user_id))

    async def publish_all(self) -> None:
        """Returns when Redis has taken everything that was committed before, by whoever's hand.

        Raises MeterUnavailable, DatabaseUnavailable: the changes stand, and will be told.
        """
        while await self._drain(outbox.everything):
            pass

    async def _drain(self, pending: Drain) -> int:
        async with self._database.transaction() as connection:
            entries = await pending(connection)
            telling = (self._tell_in_order(group) for group in _by_account(entries))
            told = await asyncio.gather(*telling, return_exceptions=True)
            taken = [entry_id for group in told if not isinstance(group, BaseException) for entry_id in group]
            if taken:
                await outbox.done(connection, taken)
        for group in told:
            if isinstance(group, BaseException):
                raise group  # what the others were told stays told
        return len(taken)

    async def _tell_in_order(self, entries: Sequence[OutboxEntry]) -> list[int]:
        for entry in entries:
            await self._tell(entry)
        return [entry.id for entry in entries]

    async def _tell(self, entry: OutboxEntry) -> None:
        if entry.user_id is None:
            await self._meter.raise_catalogue_version(entry.payload["version"])
            return
        keys = self._meter.keys(entry.user_id)
        if entry.kind == "account":
            await self._meter.raise_account_version(keys, entry.payload["version"])
            return
        change = entry.payload
        applied = await self._meter.apply_credits(keys, credit_seq=change["credit_seq"], amount=change["amount"])
        if applied is Applied.GAP:
            log.error("hot_copy_lost_a_change", user_id=str(entry.user_id), **change)
            await self._meter.forget(keys)
            await self._meter.apply_credits(keys, credit_seq=change["credit_seq"], amount=change["amount"])


def _by_account(entries: Iterable[OutboxEntry]) -> Iterable[Sequence[OutboxEntry]]:
    groups: defaultdict[UUID | None, list[OutboxEntry]] = defaultdict(list)
    for entry in entries:
        groups[entry.user_id].append(entry)
    return groups.values()
