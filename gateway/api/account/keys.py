"""API keys of the caller: create, change, rotate, revoke."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.authentication import Session
from gateway.api.account.dependencies import KeyFactoryDep, Me
from gateway.api.errors import Conflict, Throttled
from gateway.api.openapi import CONFLICTS, SIGNED_IN, THROTTLED, UNKNOWN
from gateway.api.schemas.api_keys import (
    IssuedKey,
    Key,
    KeyPatch,
    NewKeyTerms,
    Rotation,
    check_permissions,
    issued_key_model,
    key_model,
)
from gateway.api.schemas.pages import PageModel, PageQuery, page_of
from gateway.clock import now
from gateway.ledger.accounts import api_keys
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.outbox import bump_account
from gateway.paced_subjects import PacedSubjects
from policies.access.throttling import KEYS_OF_ACCOUNT
from policies.model import KeyStatus

router = APIRouter(prefix="/me/keys", tags=["keys"], responses=SIGNED_IN)
_made = PacedSubjects(KEYS_OF_ACCOUNT)


class OwnKeyQuery(PageQuery):
    revoked: bool | None = Field(default=None, description="true: revoked keys alone; false: the others alone.")


@router.post("", status_code=201, summary="Create a key", responses=THROTTLED)
async def create_key(body: NewKeyTerms, me: Me, key_factory: KeyFactoryDep) -> IssuedKey:
    """The answer holds the key, this once.

    Keys made before your address is verified are revoked by its first verification.
    """
    _pace(me)
    secret, fingerprint = key_factory.create()
    async with me.unit_of_work.change() as change:
        await check_permissions(change.connection, body.permissions)
        row = await api_keys.create(change.connection, me.id, fingerprint=fingerprint, **body.model_dump())
        await change.record("keys.create", "key", entity_id=row.id, after=key_model(row, now()))
    return issued_key_model(row, secret.secret)


@router.get("", summary="List your keys")
async def list_keys(query: Annotated[OwnKeyQuery, Query()], me: Me) -> PageModel[Key]:
    async with me.unit_of_work.read() as connection:
        page = await api_keys.list_keys(
            connection, user_id=me.id, is_revoked=query.revoked, cursor=query.cursor, limit=query.limit
        )
    instant = now()
    return page_of(page, lambda key: key_model(key, instant))


@router.get("/{key_id}", summary="Get a key", responses=UNKNOWN)
async def get_key(key_id: UUID, me: Me) -> Key:
    async with me.unit_of_work.read() as connection:
        return key_model(await _mine(connection, me, key_id), now())


@router.patch("/{key_id}", summary="Change a key", responses=UNKNOWN | CONFLICTS)
async def change_key(key_id: UUID, patch: KeyPatch, me: Me) -> Key:
    changes = patch.changes()
    if "status" in changes:
        changes["status"] = KeyStatus(changes["status"])
    async with me.unit_of_work.change() as change:
        before = _usable(await _locked(change.connection, me, key_id))
        await check_permissions(change.connection, patch.permissions)
        after = key_model(await api_keys.patch(change.connection, key_id, **changes), now())
        await change.record("keys.change", "key", entity_id=key_id, before=key_model(before, now()), after=after)
    return after


@router.post("/{key_id}/revoke", summary="Revoke a key for good", responses=UNKNOWN)
async def revoke_key(key_id: UUID, me: Me) -> Key:
    """It is refused from the very next request on. Revoking again changes nothing."""
    async with me.unit_of_work.change() as change:
        before = await _locked(change.connection, me, key_id)
        after = key_model(await api_keys.revoke(change.connection, key_id), now())
        if before.status is not KeyStatus.REVOKED:
            await change.record("keys.revoke", "key", entity_id=key_id, before=key_model(before, now()), after=after)
    return after


@router.delete("/{key_id}", status_code=204, summary="Revoke a key for good, without an answer", responses=UNKNOWN)
async def delete_key(key_id: UUID, me: Me) -> None:
    await revoke_key(key_id, me)


@router.post("/{key_id}/rotate", status_code=201, summary="Replace a key", responses=UNKNOWN | CONFLICTS | THROTTLED)
async def rotate_key(
    key_id: UUID, me: Me, key_factory: KeyFactoryDep, body: Annotated[Rotation | None, Body()] = None
) -> IssuedKey:
    """Makes a key of the same settings, shown this once. The old one expires when its grace is over.

    409 for a key whose own expiry has passed: its successor would have expired too.
    """
    _pace(me)
    secret, fingerprint = key_factory.create()
    grace = timedelta(seconds=body.grace_seconds if body else 0)
    async with me.unit_of_work.change() as change:
        before = _usable(await _locked(change.connection, me, key_id))
        retired, row = await api_keys.rotate(change.connection, key_id, fingerprint=fingerprint, now=now(), grace=grace)
        old, after = key_model(before, now()), key_model(retired, now())
        reason = body.reason if body else None
        await change.record("keys.rotate", "key", entity_id=key_id, before=old, after=after, reason=reason)
        await change.record("keys.create", "key", entity_id=row.id, after=key_model(row, now()))
    return issued_key_model(row, secret.secret)


def _pace(me: Session) -> None:
    """Before a key is made. Raises Throttled."""
    if not _made.take(me.id):
        raise Throttled(math.ceil(KEYS_OF_ACCOUNT.seconds_each))


async def _mine(connection: AsyncConnection, me: Me, key_id: UUID) -> api_keys.ApiKey:
    """Raises NotFound for the key of another user as for one that does not exist."""
    key = await api_keys.get(connection, key_id)
    if key is None or key.user_id != me.id:
        raise NotFound("key", key_id)
    return key


async def _locked(connection: AsyncConnection, me: Me, key_id: UUID) -> api_keys.ApiKey:
    """The key, locked: the `before` of the audit row is what this change replaces."""
    await _mine(connection, me, key_id)
    await bump_account(connection, me.id)
    return await _mine(connection, me, key_id)


def _usable(key: api_keys.ApiKey) -> api_keys.ApiKey:
    if key.status is KeyStatus.REVOKED:
        raise Conflict("This key is revoked, and that is for good; create another.")
    return key
