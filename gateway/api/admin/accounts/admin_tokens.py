"""Admin tokens: scoped, shown once, revoked at once. The token of the environment is not among them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import ActorDep, ReasonDep, TokenFactoryDep, UnitOfWorkDep
from gateway.api.admin.scopes import Scope
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.fields import FutureInstant, Word
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, ResponseModel, page_of
from gateway.ledger.accounts import admin_tokens
from gateway.ledger.db.errors import NotFound

router = APIRouter(prefix="/admin-tokens", tags=["admin-tokens"])


class AdminToken(ResponseModel):
    id: UUID
    name: str = Field(description="The audit log names the token's doings `admin:NAME`.")
    prefix: str
    last4: str
    scopes: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    created_at: datetime


class IssuedAdminToken(AdminToken):
    token: str = Field(description="The token itself. It is in this answer only and cannot be read again.")


class NewAdminToken(RequestModel):
    name: Word = Field(examples=["support"])
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)] = Field(examples=[["read", "keys:write"]])
    expires_at: FutureInstant | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])


@router.post("", status_code=201, summary="Create an admin token", responses=CONFLICTS)
async def create_admin_token(
    body: NewAdminToken, unit_of_work: UnitOfWorkDep, key_factory: TokenFactoryDep, actor: ActorDep
) -> IssuedAdminToken:
    """The answer holds the token, this once. Nobody gives a scope that they do not have."""
    for scope in sorted(body.scopes):
        actor.require(scope)
    secret, fingerprint = key_factory.create()
    async with unit_of_work.change() as change:
        row = await admin_tokens.create(
            change.connection,
            body.name,
            fingerprint=fingerprint,
            scopes=body.scopes,
            expires_at=body.expires_at,
        )
        created = AdminToken.model_validate(row)
        await change.record("admin_tokens.create", "admin_token", entity_id=row.id, after=created)
    return IssuedAdminToken(**created.model_dump(), token=secret.secret)


@router.get("", summary="List admin tokens")
async def list_admin_tokens(query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[AdminToken]:
    async with unit_of_work.read() as connection:
        page = await admin_tokens.list_tokens(connection, cursor=query.cursor, limit=query.limit)
    return page_of(page, AdminToken.model_validate)


@router.get("/{token_id}", summary="Get an admin token", responses=UNKNOWN)
async def get_admin_token(token_id: UUID, unit_of_work: UnitOfWorkDep) -> AdminToken:
    async with unit_of_work.read() as connection:
        row = await admin_tokens.get(connection, token_id)
    if row is None:
        raise NotFound("admin token", token_id)
    return AdminToken.model_validate(row)


@router.post("/{token_id}/revoke", summary="Revoke an admin token for good", responses=UNKNOWN)
async def revoke_admin_token(token_id: UUID, unit_of_work: UnitOfWorkDep, reason: ReasonDep) -> AdminToken:
    """It opens nothing from the very next request on. Revoking again changes nothing."""
    async with unit_of_work.change() as change:
        before, after = (
            AdminToken.model_validate(each) for each in await admin_tokens.revoke(change.connection, token_id)
        )
        if before != after:
            await change.record(
                "admin_tokens.revoke", "admin_token", entity_id=token_id, before=before, after=after, reason=reason
            )
    return after
