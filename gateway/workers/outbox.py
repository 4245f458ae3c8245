"""Publishes committed changes to Redis: new versions, and movements of credits.

An entry is deleted in the transaction that read it, after Redis applied it. A crash in between publishes it once more,
which does no harm. Until an entry is published, Redis admits calls on the state before it.

Nothing is published from a PostgreSQL that has lost publications, before a new epoch has begun (`store_watch.py`).

Entries come in order, so a gap means that Redis lost a change it had applied. The publisher then unloads the account;
its next call loads it from PostgreSQL, the journal and its holds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import outbox
from gateway.ledger.db.outbox import OutboxEntry
from gateway.ledger.db.session import Database
from gateway.ledger.usage import meter_epochs
from gateway.meter.meter import Meter
from gateway.meter.publications import EpochEnded, PostgresqlBehind, Publication
from gateway.meter.replies import CreditChangeResult

EPOCHS_IN_A_ROW = 2  # that may begin while entries are published

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
        for _ in range(EPOCHS_IN_A_ROW):
            with suppress(EpochEnded):
                return await self._publish_entries(lock_entries)
        return await self._publish_entries(lock_entries)

    async def _publish_entries(self, lock_entries: LockEntries) -> int:
        publication = await self._meter.publication()  # before the entries are read
        async with self._database.transaction() as connection:
            entries = await lock_entries(connection)
            partitions = {publication.partition_of(entry.user_id) for entry in entries if entry.user_id is not None}
            await _check_history(connection, publication, partitions)
            publishing = (_apply_in_order(publication, group) for group in _by_account(entries))
            results = await asyncio.gather(*publishing, return_exceptions=True)
            published = [entry_id for ids in results if not isinstance(ids, BaseException) for entry_id in ids]
            counts = {}
            if published:
                await outbox.delete_published(connection, published)
                counts = await meter_epochs.count_publication(connection, partitions)
        if counts:
            await publication.mark(counts)
        for result in results:
            if isinstance(result, BaseException):
                raise result  # after the commit: the accounts that succeeded stay published
        return len(published)


async def _check_history(connection: AsyncConnection, publication: Publication, partitions: Collection[int]) -> None:
    """Raises PostgresqlBehind if PostgreSQL has lost publications: what it would publish is of another history."""
    if not partitions:
        return
    for partition, stored in (await meter_epochs.read(connection, sorted(partitions))).items():
        if publication.published[partition] > stored.published:
            raise PostgresqlBehind(f"Redis has publications to partition {partition} that PostgreSQL does not have")


async def _apply_in_order(publication: Publication, entries: Sequence[OutboxEntry]) -> list[int]:
    for entry in entries:
        await _apply(publication, entry)
    return [entry.id for entry in entries]


async def _apply(publication: Publication, entry: OutboxEntry) -> None:
    if entry.user_id is None:
        await publication.raise_catalogue_version(entry.payload["version"])
        return
    if entry.kind == "account":
        await publication.raise_account_version(entry.user_id, entry.payload["version"])
        return
    change = entry.payload
    seq, amount = change["credit_seq"], change["amount"]
    applied = await publication.apply_credits(entry.user_id, credit_seq=seq, amount=amount)
    if applied is CreditChangeResult.SEQUENCE_GAP:
        log.error("credit_sequence_gap", user_id=str(entry.user_id), **change)
        await publication.unload(entry.user_id)
        await publication.apply_credits(entry.user_id, credit_seq=seq, amount=amount)


def _by_account(entries: Iterable[OutboxEntry]) -> Iterable[Sequence[OutboxEntry]]:
    groups: defaultdict[UUID | None, list[OutboxEntry]] = defaultdict(list)
    for entry in entries:
        groups[entry.user_id].append(entry)
    return groups.values()
