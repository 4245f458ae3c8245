"""Admin tokens and their scopes, stored as digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.api_keys import Fingerprint
from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import admin_tokens


@dataclass(frozen=True, slots=True)
class AdminToken:
    id: UUID
    name: str
    prefix: str
    last4: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime

    def is_usable(self, instant: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > instant)


_COLUMNS = columns(admin_tokens, AdminToken)


async def create(
    connection: AsyncConnection,
    name: str,
    *,
    fingerprint: Fingerprint,
    scopes: Sequence[str],
    expires_at: datetime | None,
) -> AdminToken:
    """Raises AlreadyExists for a taken name."""
    values = {
        "name": name,
        "prefix": fingerprint.prefix,
        "last4": fingerprint.last4,
        "token_hash": fingerprint.key_hash,
        "scopes": sorted(set(scopes)),
        "expires_at": expires_at,
    }
    async with checked(connection, "admin token"):
        statement = insert(admin_tokens).values(values).returning(*_COLUMNS)
        return value(AdminToken, (await connection.execute(statement)).one())


async def get(connection: AsyncConnection, token_id: UUID) -> AdminToken | None:
    row = (await connection.execute(select(*_COLUMNS).where(admin_tokens.c.id == token_id))).one_or_none()
    return None if row is None else value(AdminToken, row)


async def find(connection: AsyncConnection, digests: Sequence[bytes]) -> AdminToken | None:
    """The token with one of these digests, in any state."""
    row = (await connection.execute(select(*_COLUMNS).where(admin_tokens.c.token_hash.in_(digests)))).first()
    return None if row is None else value(AdminToken, row)


async def list_tokens(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 50) -> Page[AdminToken]:
    return await page_by_time(connection, select(*_COLUMNS), AdminToken, cursor=cursor, limit=limit)


async def revoke(connection: AsyncConnection, token_id: UUID) -> tuple[AdminToken, AdminToken]:
    """Revokes a token for good; gives it (before, after). Idempotent. Raises NotFound."""
    locked = select(*_COLUMNS).where(admin_tokens.c.id == token_id).with_for_update()
    row = (await connection.execute(locked)).one_or_none()
    if row is None:
        raise NotFound("admin token", token_id)
    before = value(AdminToken, row)
    if before.revoked_at is not None:
        return before, before
    changed = update(admin_tokens).where(admin_tokens.c.id == token_id).values(revoked_at=func.now())
    return before, value(AdminToken, (await connection.execute(changed.returning(*_COLUMNS))).one())


async def touch(connection: AsyncConnection, token_id: UUID) -> None:
    """Records that the token was used."""
    used = update(admin_tokens).where(admin_tokens.c.id == token_id)
    await connection.execute(used.values(last_used_at=func.now(), updated_at=admin_tokens.c.updated_at))
