"""Counts the epochs of the meter's partitions: the first one differs from those that follow a loss of Redis."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import value

_BEGIN = text("""
    INSERT INTO meter_epochs AS e (partition) VALUES (:partition)
        ON CONFLICT (partition) DO UPDATE SET epoch = e.epoch + 1, started_at = now()
    RETURNING e.epoch, (SELECT version FROM catalogue) AS catalogue_version,
              coalesce((SELECT o.last_id FROM journal_offsets o WHERE o.partition = e.partition), '0-0') AS last_id
""")


@dataclass(frozen=True, slots=True)
class StartedEpoch:
    """The number of a partition's new epoch, with the catalogue version and the journal offset that PostgreSQL has."""

    epoch: int
    catalogue_version: int
    last_id: str


async def begin(connection: AsyncConnection, partition: int) -> StartedEpoch:
    """Counts one more. Two gateways that begin an epoch at once count two; Redis uses the first that arrives."""
    return value(StartedEpoch, (await connection.execute(_BEGIN, {"partition": partition})).one())
