"""How fresh what we hold of a provider is: when an object was fetched, and how far the walks have got.

A fetch takes its time from the database before it asks, and is taken only if nothing fetched later has been. What is
turned away is older than what is there, and what is there was fetched after the message that asked for it: so whatever
order messages are worked on in, the last state stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import billing_cursors, provider_objects


async def time_of_fetch(connection: AsyncConnection) -> datetime:
    """To be taken before the provider is asked."""
    taken: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return taken


async def is_freshest(
    connection: AsyncConnection, provider: str, *, kind: str, object_id: str, fetched_at: datetime
) -> bool:
    """Whether nothing fetched later has been taken. If so this is the state to take; the object is locked meanwhile."""
    known = insert(provider_objects).values(provider=provider, kind=kind, object_id=object_id, fetched_at=fetched_at)
    newer = known.on_conflict_do_update(
        index_elements=["provider", "kind", "object_id"],
        set_={"fetched_at": fetched_at},
        where=provider_objects.c.fetched_at <= fetched_at,
    ).returning(provider_objects.c.object_id)
    return await connection.scalar(newer) is not None


async def position(connection: AsyncConnection, walk: str) -> Mapping[str, Any]:
    """Where the walk of this name has got to; empty before its first step. Locked until the transaction ends."""
    found: Mapping[str, Any] | None = await connection.scalar(
        select(billing_cursors.c.position).where(billing_cursors.c.name == walk).with_for_update()
    )
    return found or {}


async def move(connection: AsyncConnection, walk: str, *, position: Mapping[str, Any]) -> None:
    moved = insert(billing_cursors).values(name=walk, position=dict(position))
    await connection.execute(
        moved.on_conflict_do_update(
            index_elements=["name"], set_={"position": dict(position), "updated_at": func.now()}
        )
    )
