"""What payment providers are to be told: to end subscriptions, and to pause and resume their payments.

It is derived from accounts and subscriptions, so that whatever fails before a provider was told is made up for later,
and what happens late, such as a payment for a deleted account, counts too. Partial indexes find it among any number of
subscriptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy import literal, text
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import subscriptions
from gateway.ledger.db.tables.subscriptions import CURRENT, IS_BILLED, PAUSED_HERE, PAYMENTS_PAUSED
from gateway.ledger.subscriptions.subscriptions import (
    StoredSubscription,
    get_existing,
    get_for_update,
    transition,
    update,
)
from policies.billing.subscriptions import SubscriptionEvent


class Action(StrEnum):
    CANCEL = "cancel"
    PAUSE_PAYMENTS = "pause_payments"
    RESUME_PAYMENTS = "resume_payments"


@dataclass(frozen=True, slots=True)
class Instruction:
    """An action that the provider of the subscription is to take."""

    subscription: StoredSubscription
    action: Action


async def list_due(connection: AsyncConnection, *, provider: str, limit: int) -> list[Instruction]:
    """At most so many, in random order, so that refused ones do not hold up the others."""
    rows = (await connection.execute(_DUE, {"provider": provider, "limit": limit})).all()
    return [Instruction(await get_existing(connection, row.id), Action(row.action)) for row in rows]


async def record_payments_paused(connection: AsyncConnection, subscription_id: UUID, *, are_paused: bool) -> None:
    await _mark(connection, subscription_id, PAYMENTS_PAUSED, is_set=are_paused)


async def pause(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """Refuses calls from now on. It stays paused until `resume`, whatever its provider says.

    Raises NotFound and IllegalTransition.
    """
    changes = transition(await get_for_update(connection, subscription_id), SubscriptionEvent.PAUSE)
    await _mark(connection, subscription_id, PAUSED_HERE, is_set=True)
    return await update(connection, subscription_id, **changes)


async def resume(connection: AsyncConnection, subscription_id: UUID) -> StoredSubscription:
    """Undoes `pause`. What is paid for of the present period is served again; the provider begins the next one."""
    changes = transition(await get_for_update(connection, subscription_id), SubscriptionEvent.RESUME)
    await _mark(connection, subscription_id, PAUSED_HERE, is_set=False)
    return await update(connection, subscription_id, **changes)


async def _mark(connection: AsyncConnection, subscription_id: UUID, name: str, *, is_set: bool) -> None:
    found = subscriptions.c.metadata
    marked = found.concat(literal({name: True}, JSONB)) if is_set else found.op("-")(name)
    row = update_rows(subscriptions).where(subscriptions.c.id == subscription_id)
    await connection.execute(row.values(metadata=marked))


_AT_PROVIDER = "s.provider = :provider AND s.provider_subscription_id IS NOT NULL"
_MARKED = f"subscriptions s JOIN users u ON u.id = s.user_id AND {_AT_PROVIDER} AND s.{CURRENT}"
# The current subscription of each account, one look-up each: a join would read all subscriptions, because PostgreSQL
# takes deleted and suspended accounts for far more than there are.
_CURRENT_ONE = f"""
    CROSS JOIN LATERAL (SELECT s.id, s.metadata FROM subscriptions s
                         WHERE s.user_id = u.id AND {_AT_PROVIDER} AND s.{CURRENT} AND NOT {{but_for}} LIMIT 1) s
"""  # noqa: S608 - composed of constants
_ARE_PAUSED, _IS_PAUSED_HERE = f"s.metadata ? '{PAYMENTS_PAUSED}'", f"s.metadata ? '{PAUSED_HERE}'"
_DUE = text(f"""
    SELECT id, action FROM (
        SELECT s.id, '{Action.CANCEL}' AS action
          FROM users u {_CURRENT_ONE.format(but_for="s.cancel_at_period_end")} WHERE u.deleted_at IS NOT NULL
        UNION
        SELECT s.id, '{Action.CANCEL}' FROM subscriptions s WHERE {_AT_PROVIDER} AND s.{IS_BILLED}
        UNION
        SELECT s.id, '{Action.PAUSE_PAYMENTS}'
          FROM users u {_CURRENT_ONE.format(but_for=_ARE_PAUSED)}
         WHERE u.status = 'suspended' AND u.deleted_at IS NULL
        UNION
        SELECT s.id, '{Action.PAUSE_PAYMENTS}' FROM {_MARKED}
         WHERE {_IS_PAUSED_HERE} AND u.deleted_at IS NULL AND NOT {_ARE_PAUSED}
        UNION
        SELECT s.id, '{Action.RESUME_PAYMENTS}' FROM {_MARKED}
         WHERE {_ARE_PAUSED} AND NOT {_IS_PAUSED_HERE} AND u.status <> 'suspended'
    ) due ORDER BY random() LIMIT :limit
""")  # noqa: S608 - composed of constants
