"""When the gateway fetched each provider object, and how far polling has read.

A fetch takes its time from the database before the request, and is applied only if no later fetch was. A rejected fetch
is older than the stored state, which was itself fetched after the event arrived. So the latest state stays, in whatever
order events are processed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import billing_cursors, provider_objects


async def database_time(connection: AsyncConnection) -> datetime:
    """Read it before the request to the provider."""
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def record_fetch(
    connection: AsyncConnection, provider: str, *, kind: str, object_id: str, fetched_at: datetime
) -> bool:
    """Records the fetch and locks the object; returns False, and records nothing, if a later fetch was recorded."""
    fetch = insert(provider_objects).values(provider=provider, kind=kind, object_id=object_id, fetched_at=fetched_at)
    recorded = fetch.on_conflict_do_update(
        index_elements=["provider", "kind", "object_id"],
        set_={"fetched_at": fetched_at},
        where=provider_objects.c.fetched_at <= fetched_at,
    ).returning(provider_objects.c.object_id)
    return await connection.scalar(recorded) is not None


async def get_cursor_for_update(connection: AsyncConnection, name: str) -> Mapping[str, Any]:
    """The position of the named cursor, locked until the transaction ends; empty before its first move."""
    found: Mapping[str, Any] | None = await connection.scalar(
        select(billing_cursors.c.position).where(billing_cursors.c.name == name).with_for_update()
    )
    return found or {}


async def move_cursor(connection: AsyncConnection, name: str, *, position: Mapping[str, Any]) -> None:
    moved = insert(billing_cursors).values(name=name, position=dict(position))
    await connection.execute(
        moved.on_conflict_do_update(
            index_elements=["name"], set_={"position": dict(position), "updated_at": func.now()}
        )
    )
