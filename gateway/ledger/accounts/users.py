"""Users. Every change bumps the account's version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.email_addresses import ERASED_DOMAIN
from gateway.ledger.audit import audit_log
from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.db.rows import columns, value
from gateway.ledger.db.tables import user_credits, users
from policies.model import AccountStatus


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    email: str
    name: str | None
    company: str | None
    status: AccountStatus
    role: str
    external_id: str | None
    email_verified_at: datetime | None
    time_zone: str
    billing_address: str | None
    vat_id: str | None
    version: int
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


class UserFields(TypedDict, total=False):
    """Fields that can be set at creation and changed later."""

    name: str | None
    company: str | None
    password_hash: str | None
    role: str
    external_id: str | None
    email_verified_at: datetime | None
    time_zone: str
    billing_address: str | None
    vat_id: str | None
    metadata: Mapping[str, Any]
    persons: tuple[bytes, ...]
    proven_persons: tuple[bytes, ...]


class NewUserFields(UserFields, total=False):
    """`id` and `created_at` are of an account that is older than this database; left out, they are made here."""

    id: UUID
    created_at: datetime


class UserChanges(UserFields, total=False):
    email: str


_EXISTING = select(*columns(users, User)).where(users.c.deleted_at.is_(None))


async def create(connection: AsyncConnection, email: str, **values: Unpack[NewUserFields]) -> User:
    """Creates an active user without credits. Raises AlreadyExists for a taken id, email or external_id."""
    async with checked(connection, "user"):
        statement = insert(users).values(email=email.strip(), **values).returning(*columns(users, User))
        user = value(User, (await connection.execute(statement)).one())
        await connection.execute(insert(user_credits).values(user_id=user.id))
    return user


async def get(connection: AsyncConnection, user_id: UUID) -> User | None:
    row = (await connection.execute(_EXISTING.where(users.c.id == user_id))).one_or_none()
    return None if row is None else value(User, row)


async def get_for_update(connection: AsyncConnection, user_id: UUID) -> User:
    """The user, whom nobody changes or deletes until the transaction ends. Raises NotFound, for a deleted user too."""
    query = _EXISTING.where(users.c.id == user_id).with_for_update(key_share=True)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound("user", user_id)
    return value(User, row)


async def get_by_email(connection: AsyncConnection, email: str) -> User | None:
    row = (await connection.execute(_EXISTING.where(has_email(email)))).one_or_none()
    return None if row is None else value(User, row)


async def list_emails(connection: AsyncConnection, user_ids: Collection[UUID]) -> dict[UUID, str]:
    """The addresses of those of them who are not deleted."""
    if not user_ids:
        return {}
    query = select(users.c.id, users.c.email).where(users.c.id.in_(user_ids), users.c.deleted_at.is_(None))
    return {row.id: row.email for row in await connection.execute(query)}


async def list_deleted(connection: AsyncConnection, user_ids: Collection[UUID]) -> set[UUID]:
    """Those of them who are deleted."""
    query = text("SELECT id FROM users WHERE id = ANY (CAST(:user_ids AS uuid[])) AND deleted_at IS NOT NULL")
    return set((await connection.execute(query, {"user_ids": list(user_ids)})).scalars())


async def patch(connection: AsyncConnection, user_id: UUID, **changes: Unpack[UserChanges]) -> User:
    """Changes the named fields. Raises NotFound, AlreadyExists, InvalidValue."""
    return await _change(connection, user_id, dict(changes))


async def update_password_hash(connection: AsyncConnection, user_id: UUID, *, old: str | None, new: str) -> bool:
    """Replaces the hash unless another has; gives whether. No admission depends on it, so it bumps no version."""
    same = (users.c.id == user_id, users.c.password_hash == old)
    return (await connection.execute(update(users).where(*same).values(password_hash=new))).rowcount == 1


async def suspend(connection: AsyncConnection, user_id: UUID) -> User:
    """The account's keys are refused from the next request on."""
    return await _change(connection, user_id, {"status": AccountStatus.SUSPENDED})


async def reactivate(connection: AsyncConnection, user_id: UUID) -> User:
    return await _change(connection, user_id, {"status": AccountStatus.ACTIVE})


async def delete(connection: AsyncConnection, user_id: UUID) -> None:
    """Removes the user's personal data, suspends it and revokes its keys; usage and ledger rows stay.

    Raises NotFound for an unknown or deleted user.
    """
    personal: dict[str, Any] = dict.fromkeys(
        ("name", "company", "billing_address", "vat_id", "password_hash", "external_id", "email_verified_at")
    )
    state = {
        "email": f"{user_id}@{ERASED_DOMAIN}",
        "status": AccountStatus.SUSPENDED,
        "deleted_at": func.now(),
        "metadata": {},
    }
    await _change(connection, user_id, personal | state)
    await connection.execute(_ERASE_KEYS, {"user_id": user_id})
    await audit_log.erase_personal(connection, user_id)


async def revoke_unproven_keys(connection: AsyncConnection, user_id: UUID) -> None:
    """Revokes for good the keys of a user who has a password, which those of the operator's making may not have.

    The caller changes the user too, which bumps the account's version.
    """
    await connection.execute(_REVOKE_UNPROVEN_KEYS, {"user_id": user_id})


_REVOKE_UNPROVEN_KEYS = text("""
    UPDATE api_keys SET status = 'revoked', revoked_at = now(), updated_at = now()
     WHERE user_id = :user_id AND status <> 'revoked'
       AND EXISTS (SELECT 1 FROM users WHERE id = :user_id AND password_hash IS NOT NULL)
""")
_ERASE_KEYS = text("""
    UPDATE api_keys SET status = 'revoked', revoked_at = coalesce(revoked_at, now()), updated_at = now(),
           name = '', allowed_ips = '{}', metadata = '{}'
     WHERE user_id = :user_id
""")


async def _change(connection: AsyncConnection, user_id: UUID, changes: Mapping[str, Any]) -> User:
    # The bump comes first: its row lock serializes the changes of an account.
    if await bump_account(connection, user_id) is None or await get(connection, user_id) is None:
        raise NotFound("user", user_id)
    changed = update(users).where(users.c.id == user_id).values(changes).returning(*columns(users, User))
    async with checked(connection, "user"):
        return value(User, (await connection.execute(changed)).one())


def has_email(email: str) -> Any:
    return func.lower(users.c.email) == func.lower(email.strip())
