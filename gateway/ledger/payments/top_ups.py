"""Automatic top-ups: what a customer agreed to, and the payments made under it, one at a time.

A top-up is a checkout that nobody visits. Its payment is booked like that of any checkout, and so are its credits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db import notifications
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import checkouts as checkouts_table
from gateway.ledger.db.tables import top_up_settings, top_ups
from gateway.ledger.payments import checkouts
from policies.billing.money import plain
from policies.billing.payments import SavedCard
from policies.billing.top_ups import (
    CARD_REMOVED,
    STOPPED,
    Spent,
    TopUpStatus,
    day_and_month,
    exceeds_ceiling,
    retry_after,
)


@dataclass(frozen=True, slots=True)
class TopUpSettings:
    """`price` is the pack's when the customer agreed to it; `payment_method` names the card for people."""

    user_id: UUID
    provider: str
    status: TopUpStatus
    threshold: int
    pack_id: str
    price: Decimal
    currency: str
    daily_limit: Decimal
    monthly_limit: Decimal
    payment_method_id: str | None
    payment_method: str | None
    setup_checkout_id: str | None
    stopped_reason: str | None
    stopped_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TopUp:
    """A payment under way, or what became of it."""

    id: UUID
    user_id: UUID
    checkout_id: UUID
    payment_method_id: str
    status: str
    price: Decimal
    currency: str
    attempts: int
    error_message: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Offered:
    """A pack as it is for sale now: `price_id` is the provider's, for the record."""

    pack_id: str
    credits: int
    price: Decimal
    currency: str
    price_id: str


_settings, _top_up = top_up_settings.c, top_ups.c
_SETTINGS, _TOP_UP = columns(top_up_settings, TopUpSettings), columns(top_ups, TopUp)
_DUE = text("""
    SELECT s.user_id FROM top_up_settings s
      JOIN users u ON u.id = s.user_id AND u.status = 'active' AND u.deleted_at IS NULL
      JOIN user_credits c ON c.user_id = s.user_id
     WHERE s.status = 'on' AND s.provider = :provider AND c.current_credits < s.threshold
       AND NOT EXISTS (SELECT FROM top_ups t WHERE t.user_id = s.user_id AND t.status = 'pending')
       AND s.price + coalesce((SELECT sum(t.price) FROM top_ups t
                                WHERE t.user_id = s.user_id AND t.currency = s.currency
                                  AND t.status <> 'failed' AND t.created_at >= :day), 0) <= s.daily_limit
       AND s.price + coalesce((SELECT sum(t.price) FROM top_ups t
                                WHERE t.user_id = s.user_id AND t.currency = s.currency
                                  AND t.status <> 'failed' AND t.created_at >= :month), 0) <= s.monthly_limit
     ORDER BY s.user_id LIMIT :limit
""")
_BALANCE = text("""
    SELECT c.current_credits FROM user_credits c JOIN users u ON u.id = c.user_id
     WHERE c.user_id = :user_id AND u.status = 'active' AND u.deleted_at IS NULL
""")


async def get_settings(connection: AsyncConnection, user_id: UUID) -> TopUpSettings | None:
    row = (await connection.execute(select(*_SETTINGS).where(_settings.user_id == user_id))).one_or_none()
    return None if row is None else value(TopUpSettings, row)


async def lock_settings(connection: AsyncConnection, user_id: UUID) -> TopUpSettings | None:
    """Until the transaction ends, nobody changes them or begins a top-up."""
    query = select(*_SETTINGS).where(_settings.user_id == user_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(TopUpSettings, row)


async def agree(connection: AsyncConnection, user_id: UUID, **terms: Any) -> TopUpSettings:
    """What the customer agrees to, from now on: on where there is a card of the same provider, else it awaits one."""
    before = await lock_settings(connection, user_id)
    card: tuple[str | None, str | None] = (None, None)
    if before is not None and before.provider == terms["provider"]:
        card = (before.payment_method_id, before.payment_method)
    fields = {**terms, **_status(TopUpStatus.AWAITING_CARD if card[0] is None else TopUpStatus.ON)}
    fields |= {"payment_method_id": card[0], "payment_method": card[1]}
    row = upsert(top_up_settings).values(user_id=user_id, **fields)
    row = row.on_conflict_do_update(index_elements=["user_id"], set_={**fields, "updated_at": func.now()})
    return value(TopUpSettings, (await connection.execute(row.returning(*_SETTINGS))).one())


async def record_setup(connection: AsyncConnection, user_id: UUID, *, checkout_id: str) -> None:
    """Where the customer was sent to save a card."""
    await _change(connection, user_id, setup_checkout_id=checkout_id)


async def record_card(connection: AsyncConnection, user_id: UUID, card: SavedCard) -> None:
    """The customer has saved a card where they were sent last; that starts what awaited one, or had stopped."""
    found = await lock_settings(connection, user_id)
    if found is None or found.setup_checkout_id != card.checkout_id:
        return
    starts = found.status in (TopUpStatus.AWAITING_CARD, TopUpStatus.STOPPED)
    await _change(
        connection,
        user_id,
        payment_method_id=card.id,
        payment_method=card.title,
        setup_checkout_id=None,
        **(_status(TopUpStatus.ON) if starts else {}),
    )


async def turn_off(connection: AsyncConnection, user_id: UUID) -> TopUpSettings | None:
    """By the customer, who has to save a card again to begin another time."""
    if await lock_settings(connection, user_id) is None:
        return None
    nothing = {"payment_method_id": None, "payment_method": None, "setup_checkout_id": None}
    await _change(connection, user_id, **_status(TopUpStatus.OFF), **nothing)
    return await get_settings(connection, user_id)


async def stop(connection: AsyncConnection, user_id: UUID, *, reason: str, kind: str = STOPPED) -> None:
    """Stops what is on, and tells the customer and the operator's system; nothing where it is not on."""
    found = await lock_settings(connection, user_id)
    if found is None or found.status is not TopUpStatus.ON:
        return
    await _change(connection, user_id, **_status(TopUpStatus.STOPPED, reason=reason))
    payload = {
        "user_id": str(user_id),
        "reason": reason,
        "pack_id": found.pack_id,
        "amount": plain(found.price),
        "currency": found.currency,
        "payment_method": found.payment_method,
    }
    await notifications.enqueue(connection, user_id, kind=kind, payload=payload)


async def forget_card(connection: AsyncConnection, provider: str, *, method_id: str) -> bool:
    """The customer has removed the card at the provider; False where nobody here has it."""
    query = select(_settings.user_id).where(_settings.payment_method_id == method_id, _settings.provider == provider)
    owner: UUID | None = await connection.scalar(query)
    if owner is None:
        return False
    await lose_card(connection, owner)
    return True


async def lose_card(connection: AsyncConnection, user_id: UUID) -> None:
    """The provider has no card of theirs any more."""
    await stop(connection, user_id, reason="the card was removed", kind=CARD_REMOVED)
    await _change(connection, user_id, payment_method_id=None, payment_method=None)


async def spent(connection: AsyncConnection, settings: TopUpSettings, *, now: datetime) -> Spent:
    """In the currency of the settings, as their limits are."""
    day, month = day_and_month(now)
    its = (_top_up.user_id == settings.user_id, _top_up.currency == settings.currency)
    counted = (*its, _top_up.status != "failed", _top_up.created_at >= month)
    today = func.coalesce(func.sum(_top_up.price).filter(_top_up.created_at >= day), 0)
    row = (await connection.execute(select(today, func.coalesce(func.sum(_top_up.price), 0)).where(*counted))).one()
    return Spent(*row)


async def find_last(connection: AsyncConnection, user_id: UUID) -> TopUp | None:
    query = select(*_TOP_UP).where(_top_up.user_id == user_id).order_by(_top_up.created_at.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(TopUp, row)


async def list_low(connection: AsyncConnection, *, provider: str, now: datetime, limit: int) -> tuple[UUID, ...]:
    """Who is below the threshold, has none under way, and may spend as much again."""
    day, month = day_and_month(now)
    wanted = {"provider": provider, "day": day, "month": month, "limit": limit}
    return tuple(await connection.scalars(_DUE, wanted))


async def begin(connection: AsyncConnection, user_id: UUID, offered: Offered | None, *, now: datetime) -> TopUp | None:
    """Records a top-up before the provider hears of it; None where it is not, or no longer, due.

    Stops where the pack is not for sale any more, or at another price than the customer agreed to.
    """
    settings = await lock_settings(connection, user_id)
    if settings is None or settings.status is not TopUpStatus.ON or settings.payment_method_id is None:
        return None
    if offered is None or (offered.price, offered.currency) != (settings.price, settings.currency):
        reason = f"the pack {settings.pack_id} is no longer sold at {plain(settings.price)} {settings.currency}"
        await stop(connection, user_id, reason=reason)
        return None
    if not await _is_due(connection, settings, now=now):
        return None
    checkout = await checkouts.create(
        connection,
        user_id,
        provider=settings.provider,
        pack_id=offered.pack_id,
        credits=offered.credits,
        price_id=offered.price_id,
        price=offered.price,
        currency=offered.currency,
    )
    row = {
        "user_id": user_id,
        "checkout_id": checkout.id,
        "payment_method_id": settings.payment_method_id,
        "price": settings.price,
        "currency": settings.currency,
        "created_at": now,
    }
    return value(TopUp, (await connection.execute(insert(top_ups).values(row).returning(*_TOP_UP))).one())


async def list_unsettled(connection: AsyncConnection, *, provider: str, limit: int) -> tuple[TopUp, ...]:
    """Those whose outcome is to be asked for, the longest due first."""
    query = (
        select(*_TOP_UP)
        .join(checkouts_table, checkouts_table.c.id == _top_up.checkout_id)
        .where(_top_up.status == "pending", _top_up.due_at <= func.now(), checkouts_table.c.provider == provider)
        .order_by(_top_up.due_at)
        .limit(limit)
    )
    return tuple(value(TopUp, row) for row in await connection.execute(query))


async def claim(connection: AsyncConnection, top_up: TopUp) -> TopUp | None:
    """Counts an attempt before it is made, and puts off the next; None where another process makes it."""
    attempted = (_top_up.id == top_up.id, _top_up.status == "pending", _top_up.attempts == top_up.attempts)
    due_at = func.now() + retry_after(top_up.attempts + 1)
    changes = {"attempts": top_up.attempts + 1, "due_at": due_at, "updated_at": func.now()}
    changed = update(top_ups).where(*attempted).values(changes).returning(*_TOP_UP)
    row = (await connection.execute(changed)).one_or_none()
    return None if row is None else value(TopUp, row)


async def settle(connection: AsyncConnection, checkout_id: UUID, *, error: str | None) -> None:
    """What became of the payment of the checkout, if a top-up made it: a failure stops the next ones by that card.

    A payment that succeeds after all is completed.
    """
    status = "completed" if error is None else "failed"
    is_news = (_top_up.checkout_id == checkout_id, _top_up.status.in_(("pending", "failed")), _top_up.status != status)
    changes = {"status": status, "error_message": error, "settled_at": func.now(), "updated_at": func.now()}
    settled = update(top_ups).where(*is_news).values(changes).returning(_top_up.user_id, _top_up.payment_method_id)
    row = (await connection.execute(settled)).one_or_none()
    if row is None or error is None:
        return
    await checkouts.close(connection, checkout_id, status="expired")
    settings = await lock_settings(connection, row.user_id)
    if settings is not None and settings.payment_method_id == row.payment_method_id:
        await stop(connection, row.user_id, reason=error)


async def _is_due(connection: AsyncConnection, settings: TopUpSettings, *, now: datetime) -> bool:
    balance: int | None = await connection.scalar(_BALANCE, {"user_id": settings.user_id})
    if balance is None or balance >= settings.threshold:
        return False
    pending = select(_top_up.id).where(_top_up.user_id == settings.user_id, _top_up.status == "pending").exists()
    if await connection.scalar(select(pending)):
        return False
    return not exceeds_ceiling(
        settings.price,
        spent=await spent(connection, settings, now=now),
        daily=settings.daily_limit,
        monthly=settings.monthly_limit,
    )


def _status(status: TopUpStatus, *, reason: str | None = None) -> dict[str, Any]:
    is_stopped = status is TopUpStatus.STOPPED
    return {"status": status, "stopped_reason": reason, "stopped_at": func.now() if is_stopped else None}


async def _change(connection: AsyncConnection, user_id: UUID, **changes: Any) -> None:
    await connection.execute(
        update(top_up_settings).where(_settings.user_id == user_id).values(**changes, updated_at=func.now())
    )
