"""A user's name at each payment provider."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import provider_customers


async def find(connection: AsyncConnection, user_id: UUID, *, provider: str) -> str | None:
    """The provider's id of the user."""
    found: str | None = await connection.scalar(
        select(provider_customers.c.provider_customer_id).where(
            provider_customers.c.user_id == user_id, provider_customers.c.provider == provider
        )
    )
    return found


async def owner(connection: AsyncConnection, provider: str, *, provider_customer_id: str) -> UUID | None:
    """Whose id at the provider this is."""
    found: UUID | None = await connection.scalar(
        select(provider_customers.c.user_id).where(
            provider_customers.c.provider == provider,
            provider_customers.c.provider_customer_id == provider_customer_id,
        )
    )
    return found


async def keep(connection: AsyncConnection, user_id: UUID, *, provider: str, provider_customer_id: str) -> str:
    """Remembers the id unless one is known already; gives the one that holds, empty where it is another user's."""
    given = {"user_id": user_id, "provider": provider, "provider_customer_id": provider_customer_id}
    await connection.execute(insert(provider_customers).values(given).on_conflict_do_nothing())
    return await find(connection, user_id, provider=provider) or ""


async def forget(connection: AsyncConnection, provider: str, *, provider_customer_id: str) -> None:
    """The provider has deleted it: the next checkout makes another."""
    await connection.execute(
        delete(provider_customers).where(
            provider_customers.c.provider == provider,
            provider_customers.c.provider_customer_id == provider_customer_id,
        )
    )
