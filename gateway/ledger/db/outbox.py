"""The outbox: changes that Redis has still to apply, in order, and the version bumps that go through it.

One publisher at a time has an account's entries, first to last: whoever locks the row of an account's oldest entry has
all of them. The entries of a publisher that dies are published once more; Redis ignores the repetition.
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


# The catalogue's entries have no user; they share the nil UUID as owner.
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
"""  # noqa: S608 - made of constants
_ALL = text(_PENDING.format(of_whom="true"))
_WAITING = text(_PENDING.format(of_whom="true").replace("SKIP LOCKED", ""))
_OF_ACCOUNT = text(_PENDING.format(of_whom="o.user_id = :user_id")).bindparams(bindparam("user_id", type_=PG_UUID()))


async def lock_pending(connection: AsyncConnection, *, limit: int = 500) -> tuple[OutboxEntry, ...]:
    """Locks and gives the oldest entries, in order of id, without those that another publisher has locked."""
    rows = await connection.execute(_ALL, {"limit": limit})
    return tuple(value(OutboxEntry, row) for row in rows)


async def lock_all(connection: AsyncConnection, *, limit: int = 500) -> tuple[OutboxEntry, ...]:
    """The oldest entries. Waits for other publishers, so an empty result means that everything is published."""
    rows = await connection.execute(_WAITING, {"limit": limit})
    return tuple(value(OutboxEntry, row) for row in rows)


async def lock_pending_for(connection: AsyncConnection, user_id: UUID, *, limit: int = 500) -> tuple[OutboxEntry, ...]:
    """One account's entries, to publish a change at once. Empty while another publisher has them."""
    rows = await connection.execute(_OF_ACCOUNT, {"user_id": user_id, "limit": limit})
    return tuple(value(OutboxEntry, row) for row in rows)


async def delete_published(connection: AsyncConnection, ids: Collection[int]) -> None:
    """Deletes entries that Redis has applied."""
    await connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))


_BUMP_ACCOUNT = text("""
    WITH bumped AS (
         UPDATE users SET version = version + 1, updated_at = now() WHERE id = :user_id RETURNING id, version)
    INSERT INTO outbox (kind, user_id, payload)
    SELECT 'account', id, jsonb_build_object('version', version) FROM bumped
    RETURNING (payload ->> 'version')::bigint
""")

_BUMP_CATALOGUE = text("""
    WITH bumped AS (UPDATE catalogue SET version = version + 1 RETURNING version)
    INSERT INTO outbox (kind, payload)
    SELECT 'catalogue', jsonb_build_object('version', version) FROM bumped
    RETURNING (payload ->> 'version')::bigint
""")


# The row lock of a bump lasts until the commit, so an account's entries are in the order of its versions.
async def bump_account(connection: AsyncConnection, user_id: UUID) -> int | None:
    """The account's new version, None for an unknown user. Every change of user, key or subscription calls it."""
    version: int | None = await connection.scalar(_BUMP_ACCOUNT, {"user_id": user_id})
    return version


async def bump_catalogue(connection: AsyncConnection) -> int:
    """The catalogue's new version. Every change of plans or permissions calls it."""
    version: int = (await connection.execute(_BUMP_CATALOGUE)).scalar_one()
    return version
