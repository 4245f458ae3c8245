"""Counts the epochs of the meter's partitions, so that the first one is told from those that follow a loss."""

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
class Begun:
    """The number of a partition's new epoch, with the catalogue version and the journal offset that PostgreSQL has."""

    epoch: int
    catalogue_version: int
    last_id: str


async def begin(connection: AsyncConnection, partition: int) -> Begun:
    """Counts one more. Two that begin one at a time count two; Redis takes the first that it is told of."""
    return value(Begun, (await connection.execute(_BEGIN, {"partition": partition})).one())
