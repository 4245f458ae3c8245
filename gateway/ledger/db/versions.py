"""The versions that make decisions stale, and their way to Redis: bumped and put in the outbox in one statement.

The row lock of the bump is held to the end of the transaction, so the entries of one account stand in the outbox in the
order of their versions.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_ACCOUNT = text("""
    WITH bumped AS (
         UPDATE users SET version = version + 1, updated_at = now() WHERE id = :user_id RETURNING id, version)
    INSERT INTO outbox (kind, user_id, payload)
    SELECT 'account', id, jsonb_build_object('version', version) FROM bumped
    RETURNING (payload ->> 'version')::bigint
""")

_CATALOGUE = text("""
    WITH bumped AS (UPDATE catalogue SET version = version + 1 RETURNING version)
    INSERT INTO outbox (kind, payload)
    SELECT 'catalogue', jsonb_build_object('version', version) FROM bumped
    RETURNING (payload ->> 'version')::bigint
""")


async def bump_account(connection: AsyncConnection, user_id: UUID) -> int | None:
    """The account's new version, None for an unknown user. Every change of user, key or subscription calls it."""
    version: int | None = await connection.scalar(_ACCOUNT, {"user_id": user_id})
    return version


async def bump_catalogue(connection: AsyncConnection) -> int:
    """The catalogue's new version. Every change of plans or permissions calls it."""
    version: int = (await connection.execute(_CATALOGUE)).scalar_one()
    return version
