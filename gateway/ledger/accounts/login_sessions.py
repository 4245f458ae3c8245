"""Login sessions and their refresh tokens: each refresh replaces the token.

A token is valid once, and for a short while more, since two tabs of a browser may refresh at the same time; each then
goes on with a token of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.users import User
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.session import Database
from gateway.ledger.db.tables import refresh_tokens, sessions, users
from policies.access.throttling import Subject, neighbourhood
from policies.access.tokens import RefreshState
from policies.model import AccountStatus

MOST_KNOWN_ADDRESSES = 20


@dataclass(frozen=True, slots=True)
class LoginAccount:
    """What a login is checked against. `is_known_address`: the user has a session from that address.

    `known_addresses` are those of such sessions, or of some of them where they are more than MOST_KNOWN_ADDRESSES.
    """

    user_id: UUID
    status: AccountStatus
    is_known_address: bool
    known_addresses: tuple[str, ...]
    password_hash: str | None = field(repr=False)


class FoundAccount(NamedTuple):
    """`free_at` has the instants of the throttles, by the digests of their subjects."""

    account: LoginAccount | None
    free_at: Mapping[bytes, datetime]


@dataclass(frozen=True, slots=True)
class StoredRefreshToken:
    """A refresh token's state, session and user."""

    session_id: UUID
    user_id: UUID
    user_status: AccountStatus
    state: RefreshState


@dataclass(frozen=True, slots=True)
class LiveSession:
    id: UUID
    address: str | None
    created_at: datetime
    expires_at: datetime


async def find_account(
    database: Database, email: str, *, address: str, action: str, subjects: Sequence[Subject]
) -> FoundAccount:
    """The account of an e-mail address, and what of an attempt at `action` from `address` is throttled.

    That is said of `subjects`, of the account, and of the account from the neighbourhood of the address. One statement:
    strangers cause it.
    """
    digests = [each.digest for each in subjects]
    rows = await database.fetch(_ACCOUNT, email.strip(), address, f"{action}|", neighbourhood(address), digests)
    user_id, status, is_known_address, known_addresses, password_hash, *_ = rows[0]
    found = None
    if user_id is not None:
        known = tuple(known_addresses)
        found = LoginAccount(user_id, AccountStatus(status), is_known_address, known, password_hash)
    return FoundAccount(found, {row["subject"]: row["free_at"] for row in rows if row["subject"] is not None})


async def has_password(connection: AsyncConnection, user_id: UUID, password_hash: str | None) -> bool:
    """Whether the user still has this password. Locks it until the transaction ends."""
    current_hash = select(users.c.password_hash).where(users.c.id == user_id).with_for_update(read=True)
    return await connection.scalar(current_hash) == password_hash


async def create(
    connection: AsyncConnection, user_id: UUID, *, token_hash: bytes, expires_at: datetime, address: str | None
) -> UUID:
    """Creates a session with its first refresh token."""
    statement = (
        insert(sessions).values(user_id=user_id, expires_at=expires_at, address=address).returning(sessions.c.id)
    )
    session_id: UUID = (await connection.execute(statement)).scalar_one()
    await connection.execute(insert(refresh_tokens).values(token_hash=token_hash, session_id=session_id))
    return session_id


async def get_refresh_for_update(connection: AsyncConnection, token_hash: bytes) -> StoredRefreshToken | None:
    """The token of this digest, its session locked: of two requests with one token, the second finds it used."""
    query = select(refresh_tokens.c.session_id).where(refresh_tokens.c.token_hash == token_hash)
    session_id: UUID | None = await connection.scalar(query)
    if session_id is None:
        return None
    await connection.execute(select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())
    # A second statement: the first may have waited for another transaction, and this one sees what it wrote.
    row = (await connection.execute(_REFRESH.where(refresh_tokens.c.token_hash == token_hash))).one_or_none()
    if row is None:
        return None
    state = RefreshState(row.used_at, row.revoked_at, row.expires_at)
    return StoredRefreshToken(row.session_id, row.user_id, row.status, state)


async def rotate(
    connection: AsyncConnection, session_id: UUID, *, used_hash: bytes, next_hash: bytes, expires_at: datetime
) -> None:
    """Replaces a token by the next, which expires at `expires_at`. A second use leaves the time of the first."""
    first_use = func.coalesce(refresh_tokens.c.used_at, func.now())
    used = update(refresh_tokens).where(refresh_tokens.c.token_hash == used_hash).values(used_at=first_use)
    await connection.execute(used)
    await connection.execute(insert(refresh_tokens).values(token_hash=next_hash, session_id=session_id))
    await connection.execute(update(sessions).where(sessions.c.id == session_id).values(expires_at=expires_at))


async def revoke(connection: AsyncConnection, session_id: UUID) -> None:
    """Ends a session and every token of it. Revoking again changes nothing."""
    await _revoke(connection, sessions.c.id == session_id)


async def revoke_all(connection: AsyncConnection, user_id: UUID, *, exclude: UUID | None = None) -> None:
    """Ends all sessions of a user except `exclude`."""
    of_user = sessions.c.user_id == user_id
    await _revoke(connection, of_user if exclude is None else of_user & (sessions.c.id != exclude))


async def revoke_elsewhere(connection: AsyncConnection, user_id: UUID, *, address: str) -> None:
    """Ends the sessions of a user that began at another address than this."""
    await _revoke(connection, (sessions.c.user_id == user_id) & (sessions.c.address != address))


async def find_user(connection: AsyncConnection, session_id: UUID) -> User | None:
    """The user of a live session, suspended ones included; None once the session has ended or the user is deleted."""
    query = (
        select(*columns(users, User))
        .join(sessions, sessions.c.user_id == users.c.id)
        .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > func.now())
        .where(users.c.deleted_at.is_(None))
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else value(User, row)


async def revoke_own(connection: AsyncConnection, user_id: UUID, session_id: UUID) -> bool:
    """Ends a session of the user; gives whether there was one that had not ended."""
    ended = update(sessions).where(sessions.c.id == session_id, *_is_live_of(user_id)).values(revoked_at=func.now())
    return (await connection.execute(ended)).rowcount == 1


async def list_live(
    connection: AsyncConnection, user_id: UUID, *, cursor: str | None = None, limit: int
) -> Page[LiveSession]:
    """The sessions that have not ended, newest first."""
    query = select(*columns(sessions, LiveSession)).where(*_is_live_of(user_id))
    return await page_by_time(connection, query, LiveSession, cursor=cursor, limit=limit)


def _is_live_of(user_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > func.now()


async def delete_for_user(connection: AsyncConnection, user_id: UUID) -> None:
    """Deletes all sessions of a user, with their addresses."""
    await connection.execute(sessions.delete().where(sessions.c.user_id == user_id))


async def delete_expired(connection: AsyncConnection, *, limit: int) -> int:
    """Deletes at most `limit` sessions that ended over 30 days ago; gives how many."""
    return (await connection.execute(_DELETE_EXPIRED, {"limit": limit})).rowcount


# An index on lower(email); a deleted user has another address. The digests are those of `throttling.subject`.
_ACCOUNT = f"""
    SELECT u.id, u.status, EXISTS (SELECT FROM sessions s WHERE s.user_id = u.id AND s.address = $2),
           ARRAY(SELECT s.address FROM sessions s
                  WHERE s.user_id = u.id AND s.address IS NOT NULL LIMIT {MOST_KNOWN_ADDRESSES + 1}),
           u.password_hash, t.subject, t.free_at
      FROM (SELECT) one
      LEFT JOIN users u ON lower(u.email) = lower($1) AND u.deleted_at IS NULL
      LEFT JOIN throttles t ON t.subject = ANY($5::bytea[] || ARRAY[
                sha256(convert_to($3 || u.id, 'UTF8')), sha256(convert_to($3 || u.id || '|' || $4, 'UTF8'))])
"""  # noqa: S608 - made of constants

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

# Kept for a month after their end: a stolen token is still recognised, and an address stays known.
_DELETE_EXPIRED = text("""
    DELETE FROM sessions WHERE id IN (
        SELECT id FROM sessions WHERE expires_at < now() - interval '30 days'
         ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


async def _revoke(connection: AsyncConnection, which: Any) -> None:
    ended = update(sessions).where(which, sessions.c.revoked_at.is_(None)).values(revoked_at=func.now())
    await connection.execute(ended)
