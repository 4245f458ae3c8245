"""What Redis has still to be told, in order.

The entries of one account go to one drainer at a time, first to last: who holds the row lock of an account's oldest
entry holds all of them. A drainer that dies rolls back, and its entries are told again; Redis knows a repetition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.rows import value
from gateway.ledger.db.tables import outbox


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """`payload` is {version}, or {credit_seq, amount} of credits; `user_id` is None for the catalogue."""

    id: int
    kind: str
    user_id: UUID | None
    payload: Mapping[str, Any]
    created_at: datetime


# The catalogue has no user; the nil UUID stands in, so that its entries too are equal to each other.
_OWNER = "coalesce({}.user_id, '00000000-0000-0000-0000-000000000000')"

_PENDING = f"""
    WITH heads AS MATERIALIZED (
         SELECT o.id, o.user_id FROM outbox o
          WHERE {{of_whom}} AND NOT EXISTS (
                SELECT FROM outbox e WHERE {_OWNER.format("e")} = {_OWNER.format("o")} AND e.id < o.id)
          ORDER BY o.id LIMIT :limit
            FOR UPDATE SKIP LOCKED)
    SELECT o.id, o.kind, o.user_id, o.payload, o.created_at
      FROM outbox o JOIN heads ON {_OWNER.format("o")} = {_OWNER.format("heads")}
     ORDER BY o.id LIMIT :limit
"""  # noqa: S608 - made of constants of ours
_ALL = text(_PENDING.format(of_whom="true"))
_WAITING = text(_PENDING.format(of_whom="true").replace("SKIP LOCKED", ""))
_OF_ONE = text(_PENDING.format(of_whom="o.user_id = :user_id")).bindparams(bindparam("user_id", type_=PG_UUID()))


async def pending(connection: AsyncConnection, *, limit: int = 500) -> tuple[OutboxEntry, ...]:
    """The oldest entries, in order of id, but those another drainer has in hand. Ours till the transaction ends."""
    rows = await connection.execute(_ALL, {"limit": limit})
    return tuple(value(OutboxEntry, row) for row in rows)


async def everything(connection: AsyncConnection, *, limit: int = 500) -> tuple[OutboxEntry, ...]:
    """The oldest entries, those in other hands included once the others are done with them: empty means all is told."""
    rows = await connection.execute(_WAITING, {"limit": limit})
    return tuple(value(OutboxEntry, row) for row in rows)


async def pending_for(connection: AsyncConnection, user_id: UUID, *, limit: int = 500) -> tuple[OutboxEntry, ...]:
    """One account's entries, for who has just changed it and will not wait for the worker. Empty if in other hands."""
    rows = await connection.execute(_OF_ONE, {"user_id": user_id, "limit": limit})
    return tuple(value(OutboxEntry, row) for row in rows)


async def done(connection: AsyncConnection, ids: Collection[int]) -> None:
    """Forgets entries that Redis has taken."""
    await connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))
