"""Counts the meter's epochs in PostgreSQL."""

from __future__ import annotations

from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.usage import epochs
from gateway.meter.client.errors import NotSent
from gateway.meter.epochs import EpochStart


class LedgerRegister:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, partition: int) -> EpochStart:
        """Raises NotSent while PostgreSQL is away: without it no account could be loaded anyway."""
        try:
            async with self._database.transaction() as connection:
                begun = await epochs.begin(connection, partition)
        except DatabaseUnavailable as error:
            raise NotSent("Redis has begun anew, and PostgreSQL is out of reach") from error
        return EpochStart(begun.epoch, begun.catalogue_version, begun.last_id)
