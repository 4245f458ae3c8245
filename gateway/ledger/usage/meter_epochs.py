"""What PostgreSQL has of the partitions of Redis, to be compared with what Redis has (`policies/usage/epochs.py`).

The lock of the rows lets one process at a time begin epochs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from policies.usage.epochs import PostgresqlMarks, number_of

_READ = text("""
    SELECT p.partition, coalesce(e.epoch, 0) AS epochs, coalesce(e.name, '') AS epoch,
           (SELECT version FROM catalogue) AS catalogue_version,
           coalesce(o.last_id, '0-0') AS last_id, coalesce(e.published, 0) AS published
      FROM unnest(CAST(:partitions AS int[])) AS p (partition)
      LEFT JOIN meter_epochs e USING (partition)
      LEFT JOIN journal_offsets o USING (partition)
""")

_CREATE = text("""
    INSERT INTO meter_epochs (partition, epoch)
    SELECT unnest(CAST(:partitions AS int[])), 0 ON CONFLICT DO NOTHING
""")

_LOCK = text("""
    SELECT partition FROM meter_epochs WHERE partition = ANY (CAST(:partitions AS int[])) ORDER BY partition FOR UPDATE
""")

_BEGIN = text("""
    UPDATE meter_epochs e SET epoch = b.epoch, name = b.name, started_at = now()
      FROM unnest(CAST(:partitions AS int[]), CAST(:epochs AS bigint[]), CAST(:names AS text[]))
           AS b (partition, epoch, name)
     WHERE e.partition = b.partition
""")

_PUBLISH = text("""
    INSERT INTO meter_epochs AS e (partition, epoch, published)
    SELECT partition, 0, 1 FROM unnest(CAST(:partitions AS int[])) AS p (partition) ORDER BY partition
        ON CONFLICT (partition) DO UPDATE SET published = e.published + 1
    RETURNING partition, published
""")


async def read(connection: AsyncConnection, partitions: Sequence[int]) -> dict[int, PostgresqlMarks]:
    """The marks of these partitions, in one snapshot."""
    rows = await connection.execute(_READ, {"partitions": list(partitions)})
    return {partition: PostgresqlMarks(*marks) for partition, *marks in rows}


async def lock(connection: AsyncConnection, partitions: Sequence[int]) -> None:
    """Waits until no other process begins epochs of these partitions, and keeps others from it until the commit."""
    await connection.execute(_CREATE, {"partitions": list(partitions)})
    await connection.execute(_LOCK, {"partitions": list(partitions)})


async def begin(connection: AsyncConnection, epochs: Mapping[int, str]) -> None:
    """Makes these the epochs of their partitions. Needs the lock."""
    names = list(epochs.values())
    numbers = [number_of(name) for name in names]
    await connection.execute(_BEGIN, {"partitions": list(epochs), "epochs": numbers, "names": names})


async def count_publication(connection: AsyncConnection, partitions: Collection[int]) -> dict[int, int]:
    """Counts a publication to each of these partitions, in the transaction that deletes the entries from the outbox."""
    rows = await connection.execute(_PUBLISH, {"partitions": sorted(partitions)})
    return {row.partition: row.published for row in rows}
