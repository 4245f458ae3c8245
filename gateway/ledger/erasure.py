"""Deleting an account: who it was is forgotten; what was paid for and used stays, under an id that names nobody.

The row of the user stays too, emptied, because money and usage point to it.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger import accounts, notices, one_time_tokens, sessions, subscriptions


async def erase(connection: AsyncConnection, user_id: UUID, *, now: datetime) -> None:
    """Empties the user, revokes its keys and tokens, ends its subscription at once.

    The operator's system is told, by the id alone. Raises NotFound for one that is unknown or deleted already.
    """
    await accounts.delete(connection, user_id)
    await sessions.erase(connection, user_id)
    await one_time_tokens.erase(connection, user_id)
    await notices.erase(connection, user_id)
    current = await subscriptions.current(connection, user_id)
    if current is not None:
        await subscriptions.cancel(connection, current.id, now=now, at_period_end=False)
    payload = {"user_id": str(user_id)}
    await notices.post(connection, user_id, kind="account.deleted", payload=payload, channels=(notices.WEBHOOK,))
