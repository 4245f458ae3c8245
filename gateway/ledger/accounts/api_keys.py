"""API keys, stored as digests. Every change bumps the account's version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import func, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import users
from gateway.ledger.db import notifications
from gateway.ledger.db.errors import InUse, NotFound, checked
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import api_keys
from policies.access.keys import NewKey, digest
from policies.model import KeyScheme, KeyStatus


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: UUID
    user_id: UUID
    name: str
    prefix: str
    last4: str
    pepper_version: int
    status: KeyStatus
    permissions: tuple[str, ...] | None
    allowed_ips: tuple[str, ...]
    credit_cap: int | None
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    rotated_from: UUID | None
    created_at: datetime
    updated_at: datetime

    def status_at(self, instant: datetime) -> str:
        """In the order of the checks of policies: revoked, expired, disabled."""
        is_past = self.expires_at is not None and self.expires_at <= instant
        return "expired" if is_past and self.status is not KeyStatus.REVOKED else str(self.status)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is stored of a secret: `key_hash` is its HMAC-SHA-256 under the pepper of that version.

    An imported key may have another digest. `is_foreign`: it has not the form of keys created here.
    """

    prefix: str
    last4: str
    key_hash: bytes
    pepper_version: int = 1
    hash_scheme: KeyScheme = KeyScheme.HMAC_SHA256
    is_foreign: bool = False


def fingerprint(key: NewKey, peppers: Mapping[int, bytes]) -> Fingerprint:
    """The fingerprint of a new key under the newest pepper."""
    version = max(peppers)
    return Fingerprint(key.prefix, key.last4, digest(key.secret.encode(), peppers[version]), version)


class KeySettings(TypedDict, total=False):
    """`permissions` None: every permission of the plan. `credit_cap` None: all of the account's credits."""

    name: str
    permissions: Sequence[str] | None
    allowed_ips: Sequence[str]
    credit_cap: int | None
    expires_at: datetime | None


class NewKeySettings(KeySettings, total=False):
    """`id` and the times of a key that another system made, or made here where they are left out."""

    id: UUID
    created_at: datetime
    last_used_at: datetime | None


class KeyChanges(KeySettings, total=False):
    status: KeyStatus


_COLUMNS = columns(api_keys, ApiKey)
_INHERITED = ("name", "permissions", "allowed_ips", "credit_cap", "expires_at")


async def create(
    connection: AsyncConnection, user_id: UUID, *, fingerprint: Fingerprint, **settings: Unpack[NewKeySettings]
) -> ApiKey:
    """Raises NotFound for an unknown or deleted user, AlreadyExists for a known hash."""
    if await bump_account(connection, user_id) is None or await users.get(connection, user_id) is None:
        raise NotFound("user", user_id)
    created = await _insert(connection, user_id, fingerprint, dict(settings))
    await _announce(connection, "key.created", created)
    return created


async def get(connection: AsyncConnection, key_id: UUID) -> ApiKey | None:
    row = (await connection.execute(select(*_COLUMNS).where(api_keys.c.id == key_id))).one_or_none()
    return None if row is None else value(ApiKey, row)


async def list_keys(
    connection: AsyncConnection,
    *,
    user_id: UUID | None = None,
    is_revoked: bool | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ApiKey]:
    """The keys of one user, or all; those that are revoked, or are not, or both."""
    query = select(*_COLUMNS)
    if user_id is not None:
        query = query.where(api_keys.c.user_id == user_id)
    if is_revoked is not None:
        status = api_keys.c.status
        query = query.where(status == KeyStatus.REVOKED if is_revoked else status != KeyStatus.REVOKED)
    return await page_by_time(connection, query, ApiKey, cursor=cursor, limit=limit)


async def patch(connection: AsyncConnection, key_id: UUID, **changes: Unpack[KeyChanges]) -> ApiKey:
    """Changes the named fields; `status` switches between active and disabled, a revoked key stays as it is.

    Raises NotFound (also for a revoked key), InvalidValue.
    """
    if changes.get("status") == KeyStatus.REVOKED:
        raise ValueError("a key is revoked by revoke()")
    await _get_for_update(connection, key_id)
    return await _change(connection, key_id, dict(changes))


async def revoke(connection: AsyncConnection, key_id: UUID) -> ApiKey:
    """For good. Revoking again changes nothing and is no error. Raises NotFound for an unknown key."""
    key = await get(connection, key_id)
    if key is not None and key.status is KeyStatus.REVOKED:
        return key
    await _get_for_update(connection, key_id)
    revoked = await _change(connection, key_id, {"status": KeyStatus.REVOKED, "revoked_at": func.now()})
    await _announce(connection, "key.revoked", revoked)
    return revoked


async def rotate(
    connection: AsyncConnection,
    key_id: UUID,
    *,
    fingerprint: Fingerprint,
    now: datetime,
    grace: timedelta = timedelta(0),
) -> tuple[ApiKey, ApiKey]:
    """(old, new): the old key works for `grace` or until its own expiry, whichever is sooner; the new inherits all.

    Raises NotFound, also for a revoked key, and InUse for one whose own expiry has passed: its successor would
    have expired too.
    """
    key = await _get_for_update(connection, key_id)
    own_expiry = await _own_expiry(connection, key)
    if own_expiry is not None and own_expiry <= now:
        raise InUse("This key has expired, and so would its successor: set a later expiry first, or create another key")
    retire_at = now + grace
    inherited = {name: getattr(key, name) for name in _INHERITED} | {"expires_at": own_expiry}
    retired_at = retire_at if key.expires_at is None else min(key.expires_at, retire_at)
    marks = {"retired_at": retired_at.isoformat(), "expires_at": own_expiry and own_expiry.isoformat()}
    metadata = api_keys.c.metadata.concat(literal({"rotation": marks}, JSONB))
    old = await _change(connection, key_id, {"expires_at": retired_at, "metadata": metadata})
    new = await _insert(connection, old.user_id, fingerprint, inherited | {"rotated_from": key_id})
    await _announce(connection, "key.rotated", new, rotated_from=str(key_id), retires_at=retired_at.isoformat())
    return old, new


async def touch_last_used(connection: AsyncConnection, used: Mapping[UUID, datetime]) -> None:
    """Records when keys were last used; a time never goes back, and no version is bumped."""
    if used:
        ordered = sorted(used.items())
        ids, times = [key_id for key_id, _ in ordered], [instant for _, instant in ordered]
        await connection.execute(_TOUCH, {"ids": ids, "times": times})


async def list_imported_prefixes(connection: AsyncConnection) -> tuple[str, ...]:
    """The prefixes of imported keys of a foreign form; a key with another prefix needs no lookup."""
    return tuple(await connection.scalars(select(api_keys.c.prefix).where(api_keys.c.is_foreign).distinct()))


async def rehash_imported(
    connection: AsyncConnection, *, known_by: bytes, key_hash: bytes, pepper_version: int
) -> None:
    """Replaces the plain digest of an imported key by an HMAC. No admission depends on it, so it bumps no version."""
    imported = update(api_keys).where(api_keys.c.key_hash == known_by, api_keys.c.hash_scheme == KeyScheme.SHA256)
    values = {"key_hash": key_hash, "pepper_version": pepper_version, "hash_scheme": KeyScheme.HMAC_SHA256}
    await connection.execute(imported.values(values))


# Locked in order of id, so that two batches cannot deadlock.
_TOUCH = text("""
    WITH used AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS u (id, at)),
       locked AS (SELECT k.id FROM api_keys k JOIN used USING (id) ORDER BY k.id FOR UPDATE OF k)
    UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, used.at)
      FROM used JOIN locked USING (id) WHERE k.id = used.id
""")


async def _announce(connection: AsyncConnection, kind: str, key: ApiKey, **more: str) -> None:
    """Tells the operator's system."""
    payload = {
        "key_id": str(key.id),
        "name": key.name,
        "prefix": key.prefix,
        "last4": key.last4,
        "expires_at": key.expires_at and key.expires_at.isoformat(),
        **more,
    }
    await notifications.enqueue(connection, key.user_id, kind=kind, payload=payload, channels=(notifications.WEBHOOK,))


async def _insert(
    connection: AsyncConnection, user_id: UUID, fingerprint: Fingerprint, settings: Mapping[str, Any]
) -> ApiKey:
    values = {
        **settings,
        "user_id": user_id,
        "prefix": fingerprint.prefix,
        "last4": fingerprint.last4,
        "key_hash": fingerprint.key_hash,
        "pepper_version": fingerprint.pepper_version,
        "hash_scheme": fingerprint.hash_scheme,
        "is_foreign": fingerprint.is_foreign,
    }
    async with checked(connection, "key"):
        return value(ApiKey, (await connection.execute(insert(api_keys).values(values).returning(*_COLUMNS))).one())


async def _get_for_update(connection: AsyncConnection, key_id: UUID) -> ApiKey:
    """The key, its account locked by the bump of its version. Raises NotFound for an unknown or revoked key."""
    key = await get(connection, key_id)
    if key is not None:
        await bump_account(connection, key.user_id)
        key = await get(connection, key_id)
    if key is None or key.status is KeyStatus.REVOKED:
        raise NotFound("usable key", key_id)
    return key


async def _own_expiry(connection: AsyncConnection, key: ApiKey) -> datetime | None:
    """When the key would expire if no rotation had retired it, so that no successor inherits a grace."""
    marks = await connection.scalar(select(api_keys.c.metadata["rotation"]).where(api_keys.c.id == key.id))
    if not marks or key.expires_at != datetime.fromisoformat(marks["retired_at"]):
        return key.expires_at
    return None if marks["expires_at"] is None else datetime.fromisoformat(marks["expires_at"])


async def _change(connection: AsyncConnection, key_id: UUID, changes: Mapping[str, Any]) -> ApiKey:
    changed = update(api_keys).where(api_keys.c.id == key_id).values(changes).returning(*_COLUMNS)
    async with checked(connection, "key"):
        return value(ApiKey, (await connection.execute(changed)).one())
