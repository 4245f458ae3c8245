"""Tokens that go out by mail, each good once, for a purpose, for a while. The row is no secret: `policies.tokens`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import func, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import one_time_tokens
from policies.access.tokens import Purpose


@dataclass(frozen=True, slots=True)
class Proof:
    """Who has shown that mail to this address reaches them."""

    user_id: UUID
    email: str


async def issue(
    connection: AsyncConnection, user_id: UUID, *, purpose: Purpose, email: str, expires_at: datetime
) -> UUID:
    """The id of a new token. Those of the same purpose that went out before are good no longer."""
    await void(connection, user_id, purpose)
    token_id = uuid4()
    given = {"id": token_id, "user_id": user_id, "purpose": purpose, "email": email, "expires_at": expires_at}
    await connection.execute(insert(one_time_tokens).values(given))
    return token_id


async def use(connection: AsyncConnection, token_id: UUID, purpose: Purpose) -> Proof | None:
    """Uses a token up; None for one that is used, too old, or of another purpose. Of two at once, one gets it."""
    used = (
        update(one_time_tokens)
        .where(one_time_tokens.c.id == token_id, one_time_tokens.c.purpose == purpose)
        .where(one_time_tokens.c.used_at.is_(None), one_time_tokens.c.expires_at > func.now())
        .values(used_at=func.now())
        .returning(one_time_tokens.c.user_id, one_time_tokens.c.email)
    )
    row = (await connection.execute(used)).one_or_none()
    return None if row is None else Proof(row.user_id, row.email)


async def void(connection: AsyncConnection, user_id: UUID, purpose: Purpose) -> None:
    """Makes the tokens of a user for a purpose good no longer."""
    unused = (one_time_tokens.c.user_id == user_id, one_time_tokens.c.purpose == purpose)
    await connection.execute(
        update(one_time_tokens).where(*unused, one_time_tokens.c.used_at.is_(None)).values(used_at=func.now())
    )


async def erase(connection: AsyncConnection, user_id: UUID) -> None:
    await connection.execute(one_time_tokens.delete().where(one_time_tokens.c.user_id == user_id))


async def tidy(connection: AsyncConnection) -> int:
    """Forgets tokens that can no longer be used; says how many."""
    return (
        await connection.execute(one_time_tokens.delete().where(one_time_tokens.c.expires_at < func.now()))
    ).rowcount
