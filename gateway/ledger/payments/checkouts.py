"""What users were sent to a provider to pay for, on the terms that held then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import checked
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import checkouts


@dataclass(frozen=True, slots=True)
class Checkout:
    """Buys the subscription, or else `credits` as the pack. `price_id` is the provider's name for what is bought."""

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


_COLUMNS = columns(checkouts, Checkout)


async def open_checkout(connection: AsyncConnection, user_id: UUID, **terms: Any) -> Checkout:
    """`terms` are the fields of Checkout but those that come later: what the provider answers."""
    async with checked(connection, "checkout"):
        made = insert(checkouts).values(user_id=user_id, **terms).returning(*_COLUMNS)
        return value(Checkout, (await connection.execute(made)).one())


async def placed(connection: AsyncConnection, checkout_id: UUID, *, provider_checkout_id: str, url: str) -> Checkout:
    """The provider has it, and takes the payment at this URL."""
    answer = {"provider_checkout_id": provider_checkout_id, "url": url, "updated_at": func.now()}
    kept = update(checkouts).where(checkouts.c.id == checkout_id).values(answer).returning(*_COLUMNS)
    return value(Checkout, (await connection.execute(kept)).one())


async def close(connection: AsyncConnection, checkout_id: UUID, *, status: str) -> None:
    """Once completed it stays so."""
    await connection.execute(
        update(checkouts)
        .where(checkouts.c.id == checkout_id, checkouts.c.status != "completed")
        .values(status=status, updated_at=func.now())
    )


async def get(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    row = (await connection.execute(select(*_COLUMNS).where(checkouts.c.id == checkout_id))).one_or_none()
    return None if row is None else value(Checkout, row)


async def newest_for(
    connection: AsyncConnection, user_id: UUID, *, provider: str, price_id: str | None
) -> Checkout | None:
    """The one that a payment without a reference is for: the user's newest for what was bought, not completed yet."""
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


async def for_subscription(connection: AsyncConnection, subscription_id: UUID) -> Checkout | None:
    """The newest checkout that is to pay for the subscription."""
    query = (
        select(*_COLUMNS)
        .where(checkouts.c.subscription_id == subscription_id)
        .order_by(checkouts.c.created_at.desc(), checkouts.c.id.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(Checkout, row)
