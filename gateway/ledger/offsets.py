"""How far each partition's journal is applied. The row lock is the claim, and ends with the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_CREATE = text("""
    INSERT INTO journal_offsets (partition) SELECT unnest(CAST(:partitions AS int[])) ON CONFLICT DO NOTHING
""")

_CLAIM = text("""
    SELECT partition, last_id FROM journal_offsets WHERE partition = ANY (CAST(:partitions AS int[]))
     ORDER BY partition FOR UPDATE SKIP LOCKED
""")

_HOLD = text("SELECT partition FROM journal_offsets WHERE partition = :partition FOR UPDATE")

_ADVANCE = text("""
    UPDATE journal_offsets o SET last_id = a.last_id, updated_at = now()
      FROM unnest(CAST(:partitions AS int[]), CAST(:last_ids AS text[])) AS a (partition, last_id)
     WHERE o.partition = a.partition
""")


async def claim(connection: AsyncConnection, partitions: Iterable[int]) -> dict[int, str]:
    """Of these partitions those that no other writer holds, with the id of the last stream entry applied."""
    wanted = sorted(set(partitions))
    claimed = await _claim_existing(connection, wanted)
    if len(claimed) < len(wanted):
        # Some are held elsewhere, or new. Only the first time does this write anything.
        await connection.execute(_CREATE, {"partitions": [number for number in wanted if number not in claimed]})
        claimed |= await _claim_existing(connection, wanted)
    return claimed


async def hold(connection: AsyncConnection, partition: int) -> None:
    """Waits until no writer has this partition, and keeps writers from it to the end of the transaction.

    Until then no usage of the partition's accounts is written or charged. For those who compare the stores.
    """
    held = (await connection.execute(_HOLD, {"partition": partition})).one_or_none()
    if held is None:
        await connection.execute(_CREATE, {"partitions": [partition]})
        await connection.execute(_HOLD, {"partition": partition})


async def advance(connection: AsyncConnection, last_ids: Mapping[int, str]) -> None:
    """Moves claimed offsets, in the transaction that applied the entries up to them."""
    await connection.execute(_ADVANCE, {"partitions": list(last_ids), "last_ids": list(last_ids.values())})


async def _claim_existing(connection: AsyncConnection, wanted: list[int]) -> dict[int, str]:
    rows = await connection.execute(_CLAIM, {"partitions": wanted})
    return {row.partition: row.last_id for row in rows}
