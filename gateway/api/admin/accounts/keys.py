"""API keys: create, change, rotate, revoke. Only the response to their creation shows their secret."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.accounts.users import existing_user
from gateway.api.admin.dependencies import KeyFactoryDep, ReasonDep, UnitOfWorkDep
from gateway.api.admin.preconditions import STALE, PreconditionDep, TaggingDep
from gateway.api.errors import Conflict
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.api_keys import (
    IssuedKey,
    Key,
    KeyPatch,
    KeyTerms,
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
from policies.model import KeyStatus

router = APIRouter(prefix="/keys", tags=["keys"])


class KeySettings(KeyTerms):
    user_id: UUID


class NewKey(NewKeyTerms, KeySettings):
    """A key for a user."""


class KeyQuery(PageQuery):
    user_id: UUID | None = Field(default=None, description="Only this user's.")


@router.post("", status_code=201, summary="Create a key", responses=UNKNOWN)
async def create_key(body: NewKey, unit_of_work: UnitOfWorkDep, key_factory: KeyFactoryDep) -> IssuedKey:
    """The answer holds the key, this once."""
    secret, fingerprint = key_factory.create()
    settings = body.model_dump(exclude={"user_id"})
    async with unit_of_work.change() as change:
        await existing_user(change.connection, body.user_id)
        await check_permissions(change.connection, body.permissions)
        row = await api_keys.create(change.connection, body.user_id, fingerprint=fingerprint, **settings)
        await change.record("keys.create", "key", entity_id=row.id, after=key_model(row, now()))
    return issued_key_model(row, secret.secret)


@router.get("", summary="List keys")
async def list_keys(query: Annotated[KeyQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Key]:
    async with unit_of_work.read() as connection:
        page = await api_keys.list_keys(connection, user_id=query.user_id, cursor=query.cursor, limit=query.limit)
    instant = now()
    return page_of(page, lambda key: key_model(key, instant))


@router.get("/{key_id:uuid}", summary="Get a key", responses=UNKNOWN)
async def get_key(key_id: UUID, unit_of_work: UnitOfWorkDep, tagging: TaggingDep) -> Key:
    async with unit_of_work.read() as connection:
        return tagging.tagged(key_model(await _existing(connection, key_id), now()))


@router.patch("/{key_id:uuid}", summary="Change a key", responses=UNKNOWN | CONFLICTS | STALE)
async def change_key(key_id: UUID, patch: KeyPatch, unit_of_work: UnitOfWorkDep, precondition: PreconditionDep) -> Key:
    changes = patch.changes()
    if "status" in changes:
        changes["status"] = KeyStatus(changes["status"])
    async with unit_of_work.change() as change:
        before = _usable(await _locked(change.connection, key_id))
        precondition.check(key_model(before, now()))
        await check_permissions(change.connection, patch.permissions)
        after = key_model(await api_keys.patch(change.connection, key_id, **changes), now())
        await change.record("keys.change", "key", entity_id=key_id, before=key_model(before, now()), after=after)
    return precondition.tagged(after)


@router.post("/{key_id:uuid}/revoke", summary="Revoke a key for good", responses=UNKNOWN)
async def revoke_key(key_id: UUID, unit_of_work: UnitOfWorkDep, reason: ReasonDep) -> Key:
    """It is refused from the very next request on. Revoking again changes nothing."""
    async with unit_of_work.change() as change:
        before = await _locked(change.connection, key_id)
        after = key_model(await api_keys.revoke(change.connection, key_id), now())
        if before.status is not KeyStatus.REVOKED:
            await change.record(
                "keys.revoke", "key", entity_id=key_id, before=key_model(before, now()), after=after, reason=reason
            )
    return after


@router.post("/{key_id:uuid}/rotate", status_code=201, summary="Replace a key", responses=UNKNOWN | CONFLICTS)
async def rotate_key(
    key_id: UUID,
    unit_of_work: UnitOfWorkDep,
    key_factory: KeyFactoryDep,
    body: Annotated[Rotation | None, Body()] = None,
) -> IssuedKey:
    """Makes a key of the same settings, shown this once. The old one expires when its grace is over.

    409 for a key whose own expiry has passed: its successor would have expired too.
    """
    secret, fingerprint = key_factory.create()
    grace = timedelta(seconds=body.grace_seconds if body else 0)
    async with unit_of_work.change() as change:
        before = _usable(await _locked(change.connection, key_id))
        retired, row = await api_keys.rotate(change.connection, key_id, fingerprint=fingerprint, now=now(), grace=grace)
        old, after = key_model(before, now()), key_model(retired, now())
        reason = body.reason if body else None
        await change.record("keys.rotate", "key", entity_id=key_id, before=old, after=after, reason=reason)
        await change.record("keys.create", "key", entity_id=row.id, after=key_model(row, now()))
    return issued_key_model(row, secret.secret)


async def _existing(connection: AsyncConnection, key_id: UUID) -> api_keys.ApiKey:
    key = await api_keys.get(connection, key_id)
    if key is None:
        raise NotFound("key", key_id)
    return key


async def _locked(connection: AsyncConnection, key_id: UUID) -> api_keys.ApiKey:
    """The key once no other change of its account is under way: what is noted as `before` is what is replaced."""
    key = await _existing(connection, key_id)
    await bump_account(connection, key.user_id)
    return await _existing(connection, key_id)


def _usable(key: api_keys.ApiKey) -> api_keys.ApiKey:
    if key.status is KeyStatus.REVOKED:
        raise Conflict("This key is revoked, and that is for good; create another.")
    return key
