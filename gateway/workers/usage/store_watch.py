"""Compares what Redis and PostgreSQL have of each other, so that a store that has gone back is never served from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.ledger.usage import meter_epochs
from gateway.meter.client.errors import NotSent
from gateway.meter.meter import Meter
from policies.usage.epochs import PostgresqlMarks

log = structlog.get_logger(__name__)


class StoreWatch:
    """Compares both stores. A gateway runs it beside its calls, the worker beside its publications."""

    idle_seconds = 0.5

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def run_once(self) -> int:
        """Returns 0: there is never more to do at once. Without PostgreSQL there is nothing to compare with."""
        try:
            await self._meter.compare_stores()
        except NotSent as error:
            log.debug("stores_not_compared", reason=str(error))
        return 0


class PostgresEpochRegister:
    """The register of the meter's epochs in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, partitions: Sequence[int]) -> Mapping[int, PostgresqlMarks]:
        """What PostgreSQL has of these partitions. Raises NotSent while it is out of reach."""
        try:
            async with self._database.read() as connection:
                return await meter_epochs.read(connection, partitions)
        except DatabaseUnavailable as error:
            raise NotSent(str(error)) from error

    @asynccontextmanager
    async def lock(self, partitions: Sequence[int]) -> AsyncIterator[LockedEpochs]:
        """Lets this process alone begin epochs until the end of the block, which commits them. Raises NotSent."""
        try:
            async with self._database.transaction() as connection:
                await meter_epochs.lock(connection, partitions)
                yield LockedEpochs(connection, partitions)
        except DatabaseUnavailable as error:  # no account could be loaded then
            raise NotSent("Redis is in a new epoch, and PostgreSQL is out of reach") from error


class LockedEpochs:
    """The register, locked for one process."""

    def __init__(self, connection: AsyncConnection, partitions: Sequence[int]) -> None:
        self._connection = connection
        self._partitions = partitions

    async def read(self) -> Mapping[int, PostgresqlMarks]:
        return await meter_epochs.read(self._connection, self._partitions)

    async def begin(self, epochs: Mapping[int, str]) -> None:
        if epochs:
            await meter_epochs.begin(self._connection, epochs)
