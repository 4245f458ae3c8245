"""Deleting an account: who it was is forgotten; what was paid for and used stays, under an id that names nobody.

The row of the user stays too, emptied, because money and usage point to it. What records of calls say of a person is
emptied afterwards, by `clean`: they may be millions.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import login_sessions, one_time_tokens, users
from gateway.ledger.db import notifications
from gateway.ledger.subscriptions import lifecycle, subscriptions


async def erase(connection: AsyncConnection, user_id: UUID, *, now: datetime) -> None:
    """Empties the user, revokes its keys and tokens, ends its subscription at once.

    One that a provider bills stays as it is until the provider has ended it: `to_end_at_provider` names it. The
    operator's system is told, by the id alone. Raises NotFound for a user that is unknown or deleted already.
    """
    await users.delete(connection, user_id)
    await login_sessions.erase(connection, user_id)
    await one_time_tokens.erase(connection, user_id)
    await notifications.erase(connection, user_id)
    current = await subscriptions.get_current(connection, user_id)
    if current is not None and current.provider_subscription_id is None:
        await lifecycle.cancel(connection, current.id, now=now, at_period_end=False)
    payload = {"user_id": str(user_id)}
    await notifications.post(
        connection, user_id, kind="account.deleted", payload=payload, channels=(notifications.WEBHOOK,)
    )


async def clean(connection: AsyncConnection, *, limit: int) -> int:
    """Empties records of calls by deleted users of addresses, ids and file names, at most `limit` of each kind.

    Says how many. Looks at users deleted in the last week: by then the last call of each has long been written.
    """
    found = 0
    for statement in (_CLEAN_USAGE, _CLEAN_HISTORY):
        found += (await connection.execute(statement, {"limit": limit})).rowcount
    return found


_LATELY = "SELECT id FROM users WHERE deleted_at > now() - interval '7 days'"
_CLEAN_USAGE = text(f"""
    UPDATE usage_tracking t SET client_ip = NULL, client_request_id = NULL
      FROM (SELECT request_id, created_at FROM usage_tracking
             WHERE user_id IN ({_LATELY}) AND (client_ip IS NOT NULL OR client_request_id IS NOT NULL)
             LIMIT :limit) found
     WHERE t.request_id = found.request_id AND t.created_at = found.created_at
""")  # noqa: S608 - made of constants of ours
_CLEAN_HISTORY = text(f"""
    UPDATE analysis_history t SET file_name = NULL
      FROM (SELECT id, created_at FROM analysis_history
             WHERE user_id IN ({_LATELY}) AND file_name IS NOT NULL LIMIT :limit) found
     WHERE t.id = found.id AND t.created_at = found.created_at
""")  # noqa: S608 - made of constants of ours
