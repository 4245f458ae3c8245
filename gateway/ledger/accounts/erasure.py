"""Erases an account's personal data; payments and usage stay under an id that identifies nobody.

The user's row stays, emptied, because payments and usage refer to it. `erase_usage_details` empties the usage records
later, in batches, since an account may have millions; `erase_payment_details` what a payment under way needed.
"""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import login_sessions, one_time_tokens, users
from gateway.ledger.db import idempotency, notifications
from gateway.ledger.invoicing import invoices
from gateway.ledger.subscriptions import billing_spans, lifecycle, subscriptions
from gateway.ledger.usage import sink_hours
from policies.billing.issuing import to_json

# What `usage_tracking` has of a person; the other columns say what was called and what it cost.
PERSONAL_COLUMNS = ("client_ip", "client_request_id")


async def erase(connection: AsyncConnection, user_id: UUID, *, now: datetime) -> None:
    """Empties the user, revokes its keys and tokens, forgets its card, and ends its subscription at once.

    A subscription that a provider bills stays until the provider has ended it, which it is told to. Another is invoiced
    to the end, in the name of the buyer; issued invoices keep theirs. The operator's system gets a notification with
    the id alone. Raises NotFound for an unknown or deleted user.
    """
    buyer = None if await users.get(connection, user_id) is None else await invoices.get_buyer(connection, user_id)
    await connection.execute(_TURN_OFF_TOP_UPS, {"user_id": user_id})  # first, as a top-up locks them before the user
    await users.delete(connection, user_id)
    await login_sessions.delete_for_user(connection, user_id)
    await one_time_tokens.delete_for_user(connection, user_id)
    await idempotency.delete_for_caller(connection, f"user:{user_id}")
    current = await subscriptions.get_current(connection, user_id)
    if current is not None and current.provider_subscription_id is None:
        await lifecycle.cancel(connection, current.id, now=now, at_period_end=False)
    await notifications.delete_for_user(connection, user_id)
    await sink_hours.mark_months(connection, await sink_hours.list_dropped(connection), user_ids=[user_id])
    # After the user, as payments lock them. A payment under way needs its card.
    await connection.execute(_FORGET_CHECKOUT_PAGES, {"user_id": user_id})
    await connection.execute(_FORGET_CARDS_CHARGED, {"user_id": user_id})
    if buyer is not None:
        await billing_spans.keep_buyer(connection, user_id, to_json(buyer))
    payload = {"user_id": str(user_id)}
    await notifications.enqueue(
        connection, user_id, kind="account.deleted", payload=payload, channels=(notifications.WEBHOOK,)
    )


async def erase_usage_details(connection: AsyncConnection, *, limit: int) -> int:
    """Removes addresses, client ids and file names from records of deleted users, at most `limit` of each kind.

    Gives how many records it changed. A user's records are all written within the week after the deletion.
    """
    changed = 0
    for statement in (_ERASE_USAGE, _ERASE_HISTORY):
        changed += (await connection.execute(statement, {"limit": limit})).rowcount
    return changed


async def erase_payment_details(connection: AsyncConnection, *, limit: int) -> int:
    """Removes the cards of top-ups that were under way at the deletion, and pages of checkouts begun during it.

    Gives how many records it changed. A top-up is settled within the week after the deletion.
    """
    changed = 0
    for statement in (_ERASE_CARDS, _ERASE_PAGES):
        changed += (await connection.execute(statement, {"limit": limit})).rowcount
    return changed


async def mark_dropped_usage(connection: AsyncConnection, month: date) -> None:
    """With the drop of the month: the sink erases what `erase_usage_details` has not come to."""
    user_ids = (await connection.execute(text(_RECENTLY_DELETED))).scalars()
    await sink_hours.mark_months(connection, [month], user_ids=user_ids)


_RECENTLY_DELETED = "SELECT id FROM users WHERE deleted_at > now() - interval '7 days'"
_TURN_OFF_TOP_UPS = text("""
    UPDATE top_up_settings SET status = 'off', payment_method_id = NULL, payment_method = NULL,
           setup_checkout_id = NULL, stopped_reason = NULL, stopped_at = NULL, updated_at = now()
     WHERE user_id = :user_id
""")
_FORGET_CHECKOUT_PAGES = text("UPDATE checkouts SET url = NULL WHERE user_id = :user_id AND url IS NOT NULL")
_FORGET_CARDS_CHARGED = text("""
    UPDATE top_ups SET payment_method_id = '' WHERE user_id = :user_id AND status <> 'pending'
""")
_ERASE_USAGE = text(f"""
    UPDATE usage_tracking t SET {", ".join(f"{each} = NULL" for each in PERSONAL_COLUMNS)}
      FROM (SELECT request_id, created_at FROM usage_tracking
             WHERE user_id IN ({_RECENTLY_DELETED})
               AND ({" OR ".join(f"{each} IS NOT NULL" for each in PERSONAL_COLUMNS)})
             LIMIT :limit) found
     WHERE t.request_id = found.request_id AND t.created_at = found.created_at
""")  # noqa: S608 - made of constants
_ERASE_HISTORY = text(f"""
    UPDATE analysis_history t SET file_name = NULL
      FROM (SELECT id, created_at FROM analysis_history
             WHERE user_id IN ({_RECENTLY_DELETED}) AND file_name IS NOT NULL LIMIT :limit) found
     WHERE t.id = found.id AND t.created_at = found.created_at
""")  # noqa: S608 - made of constants
_ERASE_CARDS = text(f"""
    UPDATE top_ups SET payment_method_id = ''
     WHERE id IN (SELECT id FROM top_ups
                   WHERE user_id IN ({_RECENTLY_DELETED}) AND status <> 'pending' AND payment_method_id <> ''
                   LIMIT :limit)
""")  # noqa: S608 - made of constants
_ERASE_PAGES = text(f"""
    UPDATE checkouts SET url = NULL
     WHERE id IN (SELECT id FROM checkouts WHERE user_id IN ({_RECENTLY_DELETED}) AND url IS NOT NULL LIMIT :limit)
""")  # noqa: S608 - made of constants
