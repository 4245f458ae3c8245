"""Whose payments are to be paused at the provider, or resumed: the state of the account decides.

`payments_paused` in a subscription's metadata says that the gateway has paused them.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, literal, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import subscriptions
from gateway.ledger.db.tables.subscriptions import CURRENT
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, get_existing

_MARK = "payments_paused"
_DUE = text(f"""
    SELECT s.id, u.status = 'suspended' AS pauses FROM subscriptions s JOIN users u ON u.id = s.user_id
     WHERE s.provider = :provider AND s.provider_subscription_id IS NOT NULL AND s.{CURRENT}
       AND u.deleted_at IS NULL AND (u.status = 'suspended') <> (s.metadata ? '{_MARK}')
     ORDER BY random() LIMIT :limit
""")  # noqa: S608 - composed of constants


async def list_due(connection: AsyncConnection, *, provider: str, limit: int) -> list[tuple[StoredSubscription, bool]]:
    """Subscriptions, in random order, and whether their payments are to be paused; False: resumed."""
    rows = (await connection.execute(_DUE, {"provider": provider, "limit": limit})).all()
    return [(await get_existing(connection, row.id), row.pauses) for row in rows]


async def record(connection: AsyncConnection, subscription_id: UUID, *, is_paused: bool) -> None:
    found = subscriptions.c.metadata
    marked = found.concat(literal({_MARK: True}, JSONB)) if is_paused else found.op("-")(_MARK)
    changes = {"metadata": marked, "updated_at": func.now()}
    await connection.execute(update(subscriptions).where(subscriptions.c.id == subscription_id).values(changes))
