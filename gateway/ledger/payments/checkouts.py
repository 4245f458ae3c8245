"""Checkouts at a provider, with the terms of the offer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import checked
from gateway.ledger.db.rows import columns as columns_of
from gateway.ledger.db.rows import value
from gateway.ledger.db.tables import checkouts
from gateway.ledger.payments import redemptions


@dataclass(frozen=True, slots=True)
class Checkout:
    """Sells the subscription or, without one, `credits` as the pack. `price_id` is the provider's id of the price."""

    id: UUID
    user_id: UUID
    provider: str
    provider_checkout_id: str | None
    status: str
    subscription_id: UUID | None
    pack_id: str | None
    credits: int
    price_id: str
    price: Decimal
    currency: str
    url: str | None
    created_at: datetime


_COLUMNS = columns_of(checkouts, Checkout)


async def create(connection: AsyncConnection, user_id: UUID, **terms: Any) -> Checkout:
    """`terms` are the fields of Checkout except those that the provider returns."""
    async with checked(connection, "checkout"):
        created = insert(checkouts).values(user_id=user_id, **terms).returning(*_COLUMNS)
        return value(Checkout, (await connection.execute(created)).one())


async def record_at_provider(
    connection: AsyncConnection, checkout_id: UUID, *, provider_checkout_id: str, url: str
) -> Checkout:
    """Records the provider's checkout and the URL to pay at."""
    columns = {"provider_checkout_id": provider_checkout_id, "url": url, "updated_at": func.now()}
    updated = update(checkouts).where(checkouts.c.id == checkout_id).values(columns).returning(*_COLUMNS)
    return value(Checkout, (await connection.execute(updated)).one())


async def close(connection: AsyncConnection, checkout_id: UUID, *, status: str) -> None:
    """Leaves a completed checkout as it is. The coupon that it has reserved is redeemed with it, or released."""
    await (redemptions.redeem if status == "completed" else redemptions.release)(connection, checkout_id)
    await connection.execute(
        update(checkouts)
        .where(checkouts.c.id == checkout_id, checkouts.c.status != "completed")
        .values(status=status, updated_at=func.now())
    )


async def get(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    row = (await connection.execute(select(*_COLUMNS).where(checkouts.c.id == checkout_id))).one_or_none()
    return None if row is None else value(Checkout, row)


async def find_latest(
    connection: AsyncConnection, user_id: UUID, *, provider: str, price_id: str | None
) -> Checkout | None:
    """The user's newest checkout of the price that is not completed; a payment without a reference is for this one."""
    query = (
        select(*_COLUMNS)
        .where(
            checkouts.c.user_id == user_id,
            checkouts.c.provider == provider,
            checkouts.c.price_id == price_id,
            checkouts.c.status != "completed",
        )
        .order_by(checkouts.c.created_at.desc(), checkouts.c.id.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(Checkout, row)


async def find_for_subscription(connection: AsyncConnection, subscription_id: UUID) -> Checkout | None:
    """The checkout that the subscription was paid for at; the newest where none is known to be."""
    is_paid = checkouts.c.status == "completed"
    query = (
        select(*_COLUMNS)
        .where(checkouts.c.subscription_id == subscription_id)
        .order_by(is_paid.desc(), checkouts.c.created_at.desc(), checkouts.c.id.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(Checkout, row)
