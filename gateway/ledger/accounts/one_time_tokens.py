"""One-time tokens sent by e-mail. The row holds no secret: `policies.access.tokens` derives the token from its id."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import one_time_tokens
from policies.access.tokens import Purpose


@dataclass(frozen=True, slots=True)
class ProvenAddress:
    """The user, and the address at which the user received the token."""

    user_id: UUID
    email: str


async def issue(
    connection: AsyncConnection, user_id: UUID, *, purpose: Purpose, email: str, expires_at: datetime
) -> UUID:
    """Creates a token, gives its id, and revokes earlier ones of the same purpose."""
    await revoke(connection, user_id, purpose)
    token_id = uuid4()
    values = {"id": token_id, "user_id": user_id, "purpose": purpose, "email": email, "expires_at": expires_at}
    await connection.execute(insert(one_time_tokens).values(values))
    return token_id


async def find(connection: AsyncConnection, token_id: UUID, purpose: Purpose) -> ProvenAddress | None:
    """What `redeem` would give, without using the token up."""
    query = select(one_time_tokens.c.user_id, one_time_tokens.c.email).where(*_usable(token_id, purpose))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else ProvenAddress(row.user_id, row.email)


async def redeem(connection: AsyncConnection, token_id: UUID, purpose: Purpose) -> ProvenAddress | None:
    """Uses a token up. Gives None for one that is used, expired or of another purpose; of two at once, one succeeds."""
    used = (
        update(one_time_tokens)
        .where(*_usable(token_id, purpose))
        .values(used_at=func.now())
        .returning(one_time_tokens.c.user_id, one_time_tokens.c.email)
    )
    row = (await connection.execute(used)).one_or_none()
    return None if row is None else ProvenAddress(row.user_id, row.email)


async def revoke(connection: AsyncConnection, user_id: UUID, purpose: Purpose) -> None:
    """Revokes the unused tokens of a user for a purpose."""
    unused = (one_time_tokens.c.user_id == user_id, one_time_tokens.c.purpose == purpose)
    await connection.execute(
        update(one_time_tokens).where(*unused, one_time_tokens.c.used_at.is_(None)).values(used_at=func.now())
    )


async def delete_for_user(connection: AsyncConnection, user_id: UUID) -> None:
    await connection.execute(one_time_tokens.delete().where(one_time_tokens.c.user_id == user_id))


async def delete_expired(connection: AsyncConnection) -> int:
    """Deletes expired tokens; gives how many."""
    return (
        await connection.execute(one_time_tokens.delete().where(one_time_tokens.c.expires_at < func.now()))
    ).rowcount


def _usable(token_id: UUID, purpose: Purpose) -> tuple[ColumnElement[bool], ...]:
    return (
        one_time_tokens.c.id == token_id,
        one_time_tokens.c.purpose == purpose,
        one_time_tokens.c.used_at.is_(None),
        one_time_tokens.c.expires_at > func.now(),
    )
