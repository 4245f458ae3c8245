"""Logins: a session and the refresh tokens that followed one another in it, of which only the last is good."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.users import User
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import refresh_tokens, sessions, users
from policies.access.tokens import RefreshState
from policies.model import AccountStatus


@dataclass(frozen=True, slots=True)
class Account:
    """What a login is checked against. `is_known_address`: the user has signed in from there not long ago."""

    user_id: UUID
    status: AccountStatus
    is_known_address: bool
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token as it is kept, and whose it is."""

    session_id: UUID
    user_id: UUID
    user_status: AccountStatus
    state: RefreshState


async def find_account(connection: AsyncConnection, email: str, *, address: str) -> Account | None:
    row = (await connection.execute(_ACCOUNT, {"email": email.strip(), "address": address})).one_or_none()
    return None if row is None else Account(row.id, AccountStatus(row.status), row.is_known, row.password_hash)


async def still_has(connection: AsyncConnection, user_id: UUID, password_hash: str | None) -> bool:
    """Whether this is the password still, and until the transaction ends: a new one would have ended the sessions."""
    held = select(users.c.password_hash).where(users.c.id == user_id).with_for_update(read=True)
    return await connection.scalar(held) == password_hash


async def begin(
    connection: AsyncConnection, user_id: UUID, *, token_hash: bytes, expires_at: datetime, address: str | None
) -> UUID:
    """A new session with its first refresh token."""
    made = insert(sessions).values(user_id=user_id, expires_at=expires_at, address=address).returning(sessions.c.id)
    session_id: UUID = (await connection.execute(made)).scalar_one()
    await connection.execute(insert(refresh_tokens).values(token_hash=token_hash, session_id=session_id))
    return session_id


async def find_refresh(connection: AsyncConnection, token_hash: bytes) -> Refresh | None:
    """The token of this digest, its session locked: of two that come with one token the second finds it used."""
    query = select(refresh_tokens.c.session_id).where(refresh_tokens.c.token_hash == token_hash)
    session_id: UUID | None = await connection.scalar(query)
    if session_id is None:
        return None
    await connection.execute(select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())
    # Read anew: the statement before has waited for whoever had the session in hand.
    row = (await connection.execute(_REFRESH.where(refresh_tokens.c.token_hash == token_hash))).one_or_none()
    if row is None:
        return None
    state = RefreshState(row.used_at, row.revoked_at, row.expires_at)
    return Refresh(row.session_id, row.user_id, row.status, state)


async def rotate(
    connection: AsyncConnection, session_id: UUID, *, used_hash: bytes, next_hash: bytes, expires_at: datetime
) -> None:
    """Uses one token up for the next, which lives until `expires_at`."""
    used = update(refresh_tokens).where(refresh_tokens.c.token_hash == used_hash).values(used_at=func.now())
    await connection.execute(used)
    await connection.execute(insert(refresh_tokens).values(token_hash=next_hash, session_id=session_id))
    await connection.execute(update(sessions).where(sessions.c.id == session_id).values(expires_at=expires_at))


async def revoke(connection: AsyncConnection, session_id: UUID) -> None:
    """Ends a session and every token of it. Revoking again changes nothing."""
    await _revoke(connection, sessions.c.id == session_id)


async def revoke_all(connection: AsyncConnection, user_id: UUID, *, but: UUID | None = None) -> None:
    """Ends all sessions of a user, or all but one."""
    of_user = sessions.c.user_id == user_id
    await _revoke(connection, of_user if but is None else of_user & (sessions.c.id != but))


async def find_user(connection: AsyncConnection, session_id: UUID) -> User | None:
    """Who is signed in by this session; None once it is over. A suspended user is found, a deleted one is not."""
    query = (
        select(*columns(users, User))
        .join(sessions, sessions.c.user_id == users.c.id)
        .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > func.now())
        .where(users.c.deleted_at.is_(None))
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(User, row)


async def erase(connection: AsyncConnection, user_id: UUID) -> None:
    """Ends all sessions of a user and forgets where they came from."""
    await connection.execute(sessions.delete().where(sessions.c.user_id == user_id))


async def tidy(connection: AsyncConnection, *, limit: int) -> int:
    """Forgets sessions that have been over for a while, at most `limit`; says how many."""
    return (await connection.execute(_TIDY, {"limit": limit})).rowcount


# An index on lower(email); a deleted user has another address.
_ACCOUNT = text("""
    SELECT id, status, password_hash,
           EXISTS (SELECT FROM sessions s WHERE s.user_id = u.id AND s.address = :address) AS is_known
      FROM users u WHERE lower(email) = lower(:email) AND deleted_at IS NULL
""")

_REFRESH = (
    select(
        refresh_tokens.c.session_id,
        refresh_tokens.c.used_at,
        sessions.c.user_id,
        sessions.c.revoked_at,
        sessions.c.expires_at,
        users.c.status,
    )
    .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
    .join(users, users.c.id == sessions.c.user_id)
)

# A month longer than they live: so long a theft is told from a token that never was, and an address stays known.
_TIDY = text("""
    DELETE FROM sessions WHERE id IN (
        SELECT id FROM sessions WHERE expires_at < now() - interval '30 days'
         ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


async def _revoke(connection: AsyncConnection, which: Any) -> None:
    ended = update(sessions).where(which, sessions.c.revoked_at.is_(None)).values(revoked_at=func.now())
    await connection.execute(ended)
