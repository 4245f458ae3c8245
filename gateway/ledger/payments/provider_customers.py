"""The ids of users at payment providers."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
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


async def find_user(connection: AsyncConnection, provider: str, *, provider_customer_id: str) -> UUID | None:
    """The user with this id at the provider."""
    found: UUID | None = await connection.scalar(
        select(provider_customers.c.user_id).where(
            provider_customers.c.provider == provider,
            provider_customers.c.provider_customer_id == provider_customer_id,
        )
    )
    return found


async def record(connection: AsyncConnection, user_id: UUID, *, provider: str, provider_customer_id: str) -> str:
    """Records the id unless the user has one; returns the user's id, empty where another user has the given one."""
    row = {"user_id": user_id, "provider": provider, "provider_customer_id": provider_customer_id}
    await connection.execute(insert(provider_customers).values(row).on_conflict_do_nothing())
    return await find(connection, user_id, provider=provider) or ""


async def delete(connection: AsyncConnection, provider: str, *, provider_customer_id: str) -> None:
    """For a customer that the provider has deleted: the next checkout creates another."""
    await connection.execute(
        delete_rows(provider_customers).where(
            provider_customers.c.provider == provider,
            provider_customers.c.provider_customer_id == provider_customer_id,
        )
    )
