"""Up to which entry each partition's journal is applied. The lock of an offset's row is a writer's claim of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_CREATE = text("""
    INSERT INTO journal_offsets (partition) SELECT unnest(CAST(:partitions AS int[])) ON CONFLICT DO NOTHING
""")

# Partitions that were written longest ago come first, so that none waits for ever.
_CLAIM = text("""
    SELECT partition, last_id FROM journal_offsets WHERE partition = ANY (CAST(:partitions AS int[]))
     ORDER BY updated_at, partition LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_LOCK = text("SELECT partition FROM journal_offsets WHERE partition = :partition FOR UPDATE")

_ADVANCE = text("""
    UPDATE journal_offsets o SET last_id = a.last_id, updated_at = now()
      FROM unnest(CAST(:partitions AS int[]), CAST(:last_ids AS text[])) AS a (partition, last_id)
     WHERE o.partition = a.partition
""")


async def claim(connection: AsyncConnection, partitions: Iterable[int], *, limit: int | None = None) -> dict[int, str]:
    """Locks some of these partitions, and gives the id of the last entry that was applied of each.

    At most `limit`, those that were written longest ago, without any that another writer has claimed.
    """
    wanted = sorted(set(partitions))
    limit = len(wanted) if limit is None else min(limit, len(wanted))
    claimed = await _claim_existing(connection, wanted, limit)
    if len(claimed) < limit:
        # Others have claimed the rest, or it is new. Only for a new partition does this write anything.
        others = [number for number in wanted if number not in claimed]
        await connection.execute(_CREATE, {"partitions": others})
        claimed |= await _claim_existing(connection, others, limit - len(claimed))
    return claimed


async def lock(connection: AsyncConnection, partition: int) -> None:
    """Waits until no writer has claimed this partition, and locks it to the end of the transaction.

    Until then no usage of the partition's accounts is written or charged, so the two stores can be compared.
    """
    found = (await connection.execute(_LOCK, {"partition": partition})).one_or_none()
    if found is None:
        await connection.execute(_CREATE, {"partitions": [partition]})
        await connection.execute(_LOCK, {"partition": partition})


async def advance(connection: AsyncConnection, last_ids: Mapping[int, str]) -> None:
    """Moves claimed offsets, in the transaction that applied the entries up to them."""
    await connection.execute(_ADVANCE, {"partitions": list(last_ids), "last_ids": list(last_ids.values())})


async def _claim_existing(connection: AsyncConnection, wanted: list[int], limit: int) -> dict[int, str]:
    rows = await connection.execute(_CLAIM, {"partitions": wanted, "limit": limit})
    return {row.partition: row.last_id for row in rows}
