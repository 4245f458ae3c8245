"""Makes the months' partitions before the months begin."""

from __future__ import annotations

from gateway import clock
from gateway.ledger.db import month_partitions
from gateway.ledger.db.session import Database


class PartitionKeeper:
    """Keeps the partitions of the months ahead; late is harmless, since rows of no month wait in a default one."""

    idle_seconds = 3600.0

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> int:
        """Makes what is missing of this month and the next ones; gives how many partitions that were."""
        async with self._database.transaction() as connection:
            return len(await month_partitions.ensure(connection, now=clock.now()))
